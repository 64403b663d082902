"""What every folder with a model has in common: files that are as they were saved, none of which can run anything.

Needs no torch: the folder of an ONNX model is opened by it too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rainbow_ray.utils.io import describe_foreign_content

DESCRIPTION = "bundle.json"
GRAPH = "model.onnx"
# no suffix that somebody unpickles or runs
SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".md", ".onnx", ".data"}
LARGEST_DESCRIPTION = 64 * 2**20  # bytes


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder but its description."""
    return {name: _sha256(folder / name) for name in _files(folder) if name != DESCRIPTION}


def check_files(folder: Path, formats: Collection[int], needed: Collection[str]) -> dict[str, Any]:
    """The description of a folder in which each file is the one that was saved.

    Raises `ValueError` for anything else, `FileNotFoundError` where there is no description.
    """
    if (folder / DESCRIPTION).is_symlink() or (folder / DESCRIPTION).stat().st_size > LARGEST_DESCRIPTION:
        raise ValueError(f"{DESCRIPTION} is a link, or far too large")
    if foreign := describe_foreign_content(folder / DESCRIPTION):
        raise ValueError(foreign)
    document = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    found = document.get("format") if isinstance(document, dict) else None
    if not isinstance(document, dict) or found not in formats:
        newer = isinstance(found, int) and found > max(formats)
        what = "install a newer rainbow_ray" if newer else f"this version reads {', '.join(map(str, sorted(formats)))}"
        raise ValueError(f"bundle format {found!r}: {what}")
    missing = set(needed) - set(document)
    if missing:
        raise ValueError(f"{DESCRIPTION} lacks {', '.join(sorted(missing))}")
    saved = document["files"]
    if not isinstance(saved, dict):
        raise ValueError(f"{DESCRIPTION}: its list of files is none")
    # names first: only files that lie in the folder are ever opened
    there = set(_files(folder)) - {DESCRIPTION}
    lost = set(saved) - there
    if lost and not there:
        raise FileNotFoundError(2, "missing", str(folder / sorted(map(str, lost))[0]))
    changed = set(saved) ^ there
    changed = changed or {name for name, digest in saved.items() if _sha256(folder / name) != digest}
    foreign_files = [found for name in sorted(changed & there) if (found := describe_foreign_content(folder / name))]
    if foreign_files:
        raise ValueError("; ".join(foreign_files))
    if changed:
        raise ValueError(f"files that are missing, added or not as they were saved: {', '.join(sorted(changed))}")
    _refuse_what_leads_out(folder, there)
    return document


def is_onnx(folder: Path) -> bool:
    """Whether a folder holds an ONNX bundle."""
    return (folder / GRAPH).is_file() and (folder / DESCRIPTION).is_file()


def _refuse_what_leads_out(folder: Path, names: Collection[str]) -> None:
    """Files of a tokenizer and an encoder that would have others read, or code run, are refused."""
    for name in names:
        if Path(name).suffix not in SUFFIXES:
            raise ValueError(f"{name}: a file of this kind is not opened")
        if Path(name).name not in ("config.json", "tokenizer_config.json", "special_tokens_map.json"):
            continue
        said = json.loads((folder / name).read_text(encoding="utf-8"))
        keys = said if isinstance(said, dict) else {}
        leads = [key for key, value in keys.items()
                 if key == "auto_map" or (key.endswith("_file") and value is not None)
                 or ("backbone" in key and isinstance(value, str | dict))]  # fmt: skip
        if leads:
            raise ValueError(f"{name} names code or files elsewhere ({', '.join(leads)})")


def _files(folder: Path) -> list[str]:
    """Names of all files; a link is one that no bundle has. Raises `ValueError` for it."""
    found = []
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ValueError(f"{path.relative_to(folder).as_posix()} is a link")
        if path.is_file():
            found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
