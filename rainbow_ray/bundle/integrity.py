"""Integrity of the folder of a model: every file has the content that was saved, and none can run code.

The module needs no PyTorch, because ONNX bundles are checked by it as well.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rainbow_ray.utils.hashing import file_sha256
from rainbow_ray.utils.io import describe_foreign_content
from rainbow_ray.utils.mappings import rename_keys

DESCRIPTION = "bundle.json"
GRAPH = "model.onnx"
SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".md", ".onnx", ".data"}  # none is unpickled or executed
CONFIG_FILES = ("config.json", "tokenizer_config.json", "special_tokens_map.json")
MAX_DESCRIPTION_BYTES = 64 * 2**20


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder, except its description.

    Args:
        folder: Folder of a model.

    Returns:
        Hexadecimal digests by relative path.
    """
    return {name: file_sha256(folder / name) for name in _file_names(folder) if name != DESCRIPTION}


def check_files(
    folder: Path, formats: Collection[int], required: Collection[str], renamed: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Read the description of a folder after checking that its files are those that were saved.

    Args:
        folder: Folder of a model.
        formats: Versions of the description that can be read.
        required: Keys of the description.
        renamed: Present names of keys by the names that earlier formats use.

    Returns:
        The description, under the present names of its keys.

    Raises:
        ValueError: The description or a file is damaged, added, missing or of a kind that is not opened.
        FileNotFoundError: The folder has no description, or none of the files.
    """
    document = _read_description(folder, formats)
    document = rename_keys(document, renamed or {})
    missing = set(required) - set(document)
    if missing:
        raise ValueError(f"{DESCRIPTION} lacks {', '.join(sorted(missing))}")
    saved = document["files"]
    if not isinstance(saved, dict):
        raise ValueError(f"{DESCRIPTION}: `files` is not a mapping of names to hashes")
    # names are compared before contents, so that only files of the folder are ever opened
    present = set(_file_names(folder)) - {DESCRIPTION}
    absent = set(saved) - present
    if absent and not present:
        raise FileNotFoundError(2, "missing", str(folder / sorted(map(str, absent))[0]))
    changed = set(saved) ^ present
    changed = changed or {name for name, digest in saved.items() if file_sha256(folder / name) != digest}
    foreign = [message for name in sorted(changed & present) if (message := describe_foreign_content(folder / name))]
    if foreign:
        raise ValueError("; ".join(foreign))
    if changed:
        raise ValueError(f"files that are missing, added or not as they were saved: {', '.join(sorted(changed))}")
    _check_references(folder, present)
    return document


def is_onnx(folder: Path) -> bool:
    """Return whether a folder holds an ONNX bundle.

    Args:
        folder: Any folder.

    Returns:
        Whether it has a graph and a description.
    """
    return (folder / GRAPH).is_file() and (folder / DESCRIPTION).is_file()


def _read_description(folder: Path, formats: Collection[int]) -> dict[str, Any]:
    """Read `bundle.json`. Raises `ValueError` where it is damaged or has another format."""
    file = folder / DESCRIPTION
    if file.is_symlink() or file.stat().st_size > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"{DESCRIPTION} is a link, or larger than {MAX_DESCRIPTION_BYTES // 2**20} MiB")
    if foreign := describe_foreign_content(file):
        raise ValueError(foreign)
    document = json.loads(file.read_text(encoding="utf-8"))
    version = document.get("format") if isinstance(document, dict) else None
    if not isinstance(document, dict) or version not in formats:
        is_newer = isinstance(version, int) and version > max(formats)
        readable = ", ".join(map(str, sorted(formats)))
        advice = "install a newer rainbow_ray" if is_newer else f"this version reads {readable}"
        raise ValueError(f"bundle format {version!r}: {advice}")
    return document


def _check_references(folder: Path, names: Collection[str]) -> None:
    """Raise `ValueError` for files whose kind is not opened, and for configs that name other files or code."""
    for name in names:
        if Path(name).suffix not in SUFFIXES:
            raise ValueError(f"{name}: files of this kind are not opened")
        if Path(name).name not in CONFIG_FILES:
            continue
        config = json.loads((folder / name).read_text(encoding="utf-8"))
        references = [key for key, value in (config if isinstance(config, dict) else {}).items()
                      if key == "auto_map" or (key.endswith("_file") and value is not None)
                      or ("backbone" in key and isinstance(value, str | dict))]  # fmt: skip
        if references:
            raise ValueError(f"{name} names code or files elsewhere ({', '.join(references)})")


def _file_names(folder: Path) -> list[str]:
    """Return the sorted relative paths of all files. Raises `ValueError` for links, which could leave the folder."""
    names = []
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ValueError(f"{path.relative_to(folder).as_posix()} is a link")
        if path.is_file():
            names.append(path.relative_to(folder).as_posix())
    return sorted(names)
