"""The bundle: a folder from which a model predicts anywhere, without network and without unpickling anything.

model.safetensors   all tensors, the encoder's among them
bundle.json         what the model is: its config, problem, target, text columns
encoder/            the text encoder's transformers config
audio_encoder/      the audio encoder's, where it is not our own
tokenizer files     as transformers writes them
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rainbow_ray.config import ModelConfig
from rainbow_ray.errors import InputError
from rainbow_ray.modalities.bodies import Bodies
from rainbow_ray.modalities.text import load_tokenizer
from rainbow_ray.model.rainbow import Rainbow
from rainbow_ray.problems import Problem, make_problem
from rainbow_ray.problems.segmentation import Segmentation

FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """A model with all that it needs to score texts."""

    model: Rainbow
    problem: Problem
    tokenizer: str  # where `load_tokenizer` finds it
    info: dict[str, Any]


def save_bundle(folder: Path, bundle: Bundle, model_config: ModelConfig) -> None:
    """Write to a temporary folder and move it into place; an earlier bundle of that name gives way."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.model.state_dict().items()}
    save_file(tensors, temporary / "model.safetensors")
    model = bundle.model
    if model.text is not None:
        load_tokenizer(bundle.tokenizer).save_pretrained(temporary)
        model.text.body.config.save_pretrained(temporary / "encoder")
    if model.audio is not None and hasattr(model.audio, "body"):
        model.audio.body.config.save_pretrained(temporary / "audio_encoder")
    document = {
        "format": FORMAT,
        "model": model_config.model_dump(),
        "modalities": list(model.modalities),
        "audio_normalised": getattr(model.audio, "normalise", True),
        "problem": {"name": bundle.problem.name, **bundle.problem.to_json()},
        **bundle.info,
        "files": {name: _sha256(temporary / name) for name in _files(temporary)},
    }
    (temporary / "bundle.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)


def load_bundle(path: Path) -> Bundle:
    """Open a bundle, or the `model/` of a run. Raises `InputError` when it is not whole."""
    path = path.resolve()
    folder = path / "model" if (path / "model" / "bundle.json").exists() else path
    try:
        document = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        _check_files(folder, document)
        tensors = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no model here ({Path(error.filename or folder).name} is missing); name a run's"
                         " folder, or its model/ folder") from error  # fmt: skip
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: the model is damaged ({str(error)[:200]}); copy it again") from error
    try:
        state = dict(document["problem"])
        problem = make_problem(state.pop("name"), **state)
        modalities = document.get("modalities", ["text"])
        bodies = Bodies(
            _empty_body(folder / "encoder") if "text" in modalities else None,
            _empty_body(folder / "audio_encoder") if (folder / "audio_encoder").exists() else None,
            audio_normalised=document.get("audio_normalised", True),
        )
        seconds = document.get("windows", {}).get("seconds", 10.0)
        config = ModelConfig.model_validate(document["model"])
        temporal = isinstance(problem, Segmentation)
        model = Rainbow(bodies, config, problem.outputs, modalities, seconds, temporal=temporal)
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: the model is damaged ({first}); copy it again") from error
    return Bundle(model.eval(), problem, str(folder), document)


def _check_files(folder: Path, document: Any) -> None:
    """Raise `ValueError` unless the bundle is of this format and each of its files is the one that was saved."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise ValueError(f"bundle format {found!r}, but this version reads {FORMAT}")
    missing = {"model", "problem", "files", "text_columns", "max_tokens"} - set(document)
    if missing:
        raise ValueError(f"bundle.json lacks {', '.join(sorted(missing))}")
    # names first: only files that lie in the folder are ever opened
    changed = set(document["files"]) ^ (set(_files(folder)) - {"bundle.json"})
    changed = changed or {name for name, digest in document["files"].items() if _sha256(folder / name) != digest}
    if changed:
        raise ValueError(f"files that are missing, added or not as they were saved: {', '.join(sorted(changed))}")


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _empty_body(folder: Path) -> Any:
    """The encoder's architecture; its weights come from the bundle."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return AutoModel.from_config(config, dtype=torch.float32)
