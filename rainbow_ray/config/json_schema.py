"""JSON schema of the config, for completion and validation in editors."""

from __future__ import annotations

from typing import Any

from rainbow_ray.config.schema import Config


def config_json_schema() -> dict[str, Any]:
    """Return the JSON schema of a config file.

    Keys have their types, defaults and descriptions. Deprecated keys are left out.

    Returns:
        The schema as a JSON object.

    Reference:
        JSON Schema, draft 2020-12.
    """
    schema = Config.model_json_schema()
    sections = [schema, *schema.get("$defs", {}).values()]
    for section in (section for section in sections if "properties" in section):
        fields = section["properties"].items()
        section["properties"] = {name: field for name, field in fields if not field.get("deprecated")}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
