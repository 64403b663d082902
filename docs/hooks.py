"""MkDocs hooks: sections of the documentation that are generated from the code."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from rainbow_ray.config.renamed_keys import inert_keys, renamed_keys
from rainbow_ray.config.schema import Config

COMMANDS = ("train", "tune", "check", "predict", "export", "serve", "report")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace placeholders of a page by generated text."""
    for name, generate in GENERATORS.items():
        placeholder = "{{ " + name + " }}"
        if placeholder in markdown:
            markdown = markdown.replace(placeholder, generate())
    return markdown


def command_line() -> str:
    """Return the help text of every command."""
    sections = []
    for command in COMMANDS:
        module = f"rainbow_ray.{command}"
        result = subprocess.run(
            [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True, env=_environment()
        )
        summary = (importlib.import_module(module).__doc__ or "").splitlines()[0]
        sections.append(f"## {command}\n\n{summary}\n\n```text\n{result.stdout.strip()}\n```\n")
    return "\n".join(sections)


def configuration() -> str:
    """Return a table of keys for every section of the config."""
    return "\n".join(_sections(Config(), ""))


def former_names() -> str:
    """Return a table of former and present names of keys."""
    rows = [f"| `{old}` | `{new}` |" for old, new in sorted(renamed_keys().items())]
    return "\n".join(["| former name | present name |", "| --- | --- |", *rows])


GENERATORS = {"command_line": command_line, "configuration": configuration, "renamed_keys": former_names}


def _sections(section: BaseModel, prefix: str) -> Iterator[str]:
    fields, defaults = type(section).model_fields, section.model_dump(mode="json")
    rows, nested = [], []
    for name, field in fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            nested.append((value, f"{prefix}{name}."))
        elif f"{prefix}{name}" not in inert_keys():
            description = (field.description or "").replace("|", "\\|")
            rows.append(f"| `{prefix}{name}` | `{_yaml(defaults[name])}` | {description} |")
    if rows:
        title = prefix.removesuffix(".") or "Top level"
        yield f"## {title}\n\n| key | default | description |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    for value, name in nested:
        yield from _sections(value, name)


def _yaml(value: Any) -> str:
    """Return a value as it is written in a config file."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
