"""Messages about keys that the config does not have."""

from __future__ import annotations

from rainbow_ray.config.keys import known_keys
from rainbow_ray.config.renamed_keys import renamed_keys
from rainbow_ray.utils.errors import did_you_mean


def explain_unknown_key(key: str) -> str:
    """Return what is wrong with a key that does not exist.

    Args:
        key: Dotted key, as the user wrote it.

    Returns:
        `"unknown key"` with similar keys under their present names; for the present or former name of a section, with
        one of its keys.
    """
    names = {**{name: name for name in known_keys()}, **renamed_keys()}
    keys_of_section = [present for name, present in names.items() if name.startswith(f"{key}.")]
    if keys_of_section:
        return f"unknown key (it is a section; set one of its keys, such as {keys_of_section[0]})"
    return f"unknown key{did_you_mean(key, known_keys(), renamed=renamed_keys())}"
