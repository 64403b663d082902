"""The bundle: a folder from which a model predicts anywhere, without network and without unpickling anything.

model.safetensors      all tensors, the encoder's among them
member-K.safetensors   of an ensemble: what fit K has of its own; model.safetensors then has what all share
bundle.json            what the model is: its config, problem, target, text columns, calibration
README.md              what it is for people: data, numbers, limits
encoder/               the text encoder's transformers config
audio_encoder/         the audio encoder's, where it is not our own
tokenizer files        as transformers writes them
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, NonNegativeInt, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rainbow_ray.bundle.integrity import DESCRIPTION, check_files, file_hashes, is_onnx
from rainbow_ray.bundle.tokenizer_files import save_tokenizer
from rainbow_ray.calibration.apply import Calibration
from rainbow_ray.config.schema import ModelConfig
from rainbow_ray.modalities.encoder_cache import EncoderCache
from rainbow_ray.modalities.hub import offline, quiet_libraries
from rainbow_ray.modalities.pretrained import TEXT, count_embeddings
from rainbow_ray.modalities.text.encoder import check_embeddings
from rainbow_ray.modalities.weights import check_finite
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.utils.errors import InputError, first_line
from rainbow_ray.utils.paths import resolve_path

FORMAT = 2
READABLE = (1, FORMAT)  # 1 has no ensembles
TENSORS = "model.safetensors"
CARD = "README.md"
MOST_LAYERS = 1000  # of an encoder: a config that says more is damaged


class Described(BaseModel):
    """What a description must be for the model to be asked, beside what its parts check for themselves."""

    max_tokens: NonNegativeInt  # 0 only where text is not read
    text_columns: list[str]
    modalities: list[Literal["text", "audio", "midi"]] = Field(default=["text"], min_length=1)
    id_column: str = "id"
    media_columns: dict[str, tuple[str, str | None]] = {}
    times: tuple[str, str, str | None] | None = None
    segments: dict[str, float | int] = {}
    windows: dict[str, float | int | str] = {}
    max_bad_media: float = Field(default=0.2, ge=0.0, le=1.0)
    calibration: dict[str, Any] = {}
    members: list[dict[str, Any]] = []

    @model_validator(mode="after")
    def _check_max_tokens(self) -> Described:
        if "text" in self.modalities and self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1 where text is read")
        return self


@dataclass(frozen=True)
class Member:
    """One fit of an ensemble: its model, its problem as fitted, what its scores become, and the fold it never saw."""

    model: RainbowModel
    task: Task
    calibration: Calibration = field(default_factory=Calibration)
    fold: int | None = None


@dataclass(frozen=True)
class Bundle:
    """A model with all that it needs to score songs. `task` decides; an ensemble's scores are averaged before."""

    model: RainbowModel  # an ensemble's first
    task: Task
    tokenizer: str  # where `load_tokenizer` finds it
    info: dict[str, Any]
    members: tuple[Member, ...] = ()  # none: the model is one fit

    @property
    def fits(self) -> tuple[Member, ...]:
        return self.members or (Member(self.model, self.task, self.calibration),)

    @property
    def calibration(self) -> Calibration:
        """What the scores of all become."""
        return Calibration.from_json(self.info.get("calibration", {}))

    def member(self, fold: int) -> Bundle:
        """The fit that never saw a fold, alone. Raises `InputError` where there is none."""
        for one in self.members:
            if one.fold == fold:
                info = {**self.info, "calibration": one.calibration.to_json()}
                return Bundle(one.model, one.task, self.tokenizer, info)
        known = ", ".join(str(one.fold) for one in self.members)
        raise InputError(f"this model has no member of fold {fold}: "
                         + (f"there are {known}" if known else "it is no ensemble (train --ensemble)"))  # fmt: skip


def save_bundle(folder: Path, bundle: Bundle, model_config: ModelConfig, card: str = "") -> None:
    """Write to a temporary folder and move it into place; an earlier bundle of that name gives way."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, tensors in _tensor_files(bundle).items():
        save_file(tensors, temporary / name)
    model = bundle.model
    if model.text is not None:
        save_tokenizer(bundle.tokenizer, temporary, int(bundle.info["max_tokens"]))
        model.text.body.config.save_pretrained(temporary / "encoder")
    if model.audio is not None and hasattr(model.audio, "body"):
        model.audio.body.config.save_pretrained(temporary / "audio_encoder")
    if card:
        (temporary / CARD).write_text(card, encoding="utf-8")
    document = {
        "format": FORMAT,
        "model": model_config.model_dump(),
        "modalities": list(model.modalities),
        "audio_normalised": getattr(model.audio, "normalise", True),
        "problem": _described(bundle.task),
        "members": [
            {"fold": one.fold, "problem": _described(one.task), "calibration": one.calibration.to_json()}
            for one in bundle.members
        ],
        **bundle.info,
        "files": file_hashes(temporary),
    }
    (temporary / DESCRIPTION).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)


def find_bundle(path: Path) -> Path:
    """The folder of a bundle: a run's `model/`, or the folder itself."""
    return path / "model" if (path / "model" / DESCRIPTION).exists() else path


def bundle_hash(path: Path) -> str:
    """Identifies the bundle of a folder or run: its description names the hashes of all its files."""
    return hashlib.sha256((find_bundle(resolve_path(path).resolve()) / DESCRIPTION).read_bytes()).hexdigest()[:16]


def load_bundle(path: Path) -> Bundle:
    """Open a bundle, or the `model/` of a run. Raises `InputError` when it is not whole."""
    path = resolve_path(path).resolve()
    folder = find_bundle(path)
    if is_onnx(folder):
        raise InputError(f"{path}: this is what `export --onnx` wrote; `predict --text` and `rainbow_ray.load` take it,"
                         " here name the run that it came from")  # fmt: skip
    try:
        document = check_files(folder, READABLE, {"model", "problem", "files", "text_columns", "max_tokens"})
        Described.model_validate(document)
        described = document.get("members", [])
        names = [TENSORS, *(_member_file(i) for i in range(len(described)))]
        tensors, *own = [_read(folder / name) for name in names]
    except FileNotFoundError as error:
        raise InputError(f"{path}: no model here ({Path(error.filename or folder).name} is missing); name a run's"
                         " folder, or its model/ folder") from error  # fmt: skip
    except (OSError, ValueError, SafetensorError, RecursionError) as error:
        raise InputError(f"{path}: the model is damaged ({str(error)[:200]}); copy it again") from error
    try:
        task = _problem_of(document["problem"])
        problems = [_problem_of(one["problem"]) for one in described]
        with offline(), quiet_libraries():
            models = [
                _build(folder, document, fitted, {**tensors, **state})
                for fitted, state in zip(problems or [task], own or [{}], strict=True)
            ]
        calibrations = [Calibration.from_json(one["calibration"]) for one in described]
        for made in (*calibrations, Calibration.from_json(document.get("calibration", {}))):
            made.check(len(task.score_names))
        broken = [found for model in models for found in check_finite(model)]
        if broken:
            raise ValueError(broken[0])
    except Exception as error:  # whatever transformers makes of a config that somebody damaged
        raise InputError(f"{path}: the model is damaged ({first_line(error)}); copy it again") from error
    _check_tokenizer(path, folder, models[0])
    parts = zip(models, problems, calibrations, described, strict=True) if described else ()
    members = tuple(Member(model, fitted, made, one["fold"]) for model, fitted, made, one in parts)
    return Bundle(models[0], task, str(folder), document, members)


def _check_tokenizer(path: Path, folder: Path, model: RainbowModel) -> None:
    """Raise `InputError` for a bundle whose tokenizer is not its encoder's, or knows no word."""
    if model.text is None:
        return
    try:
        with offline():
            check_embeddings(str(folder), count_embeddings(model.text.body))
    except InputError as error:
        problems = [problem.removeprefix(f"{TEXT.key}: {str(folder)!r} ") for problem in error.problems]
        raise InputError(f"{path}: the model {problem}" for problem in problems) from error


def _member_file(number: int) -> str:
    return f"member-{number}.safetensors"


def _tensor_files(bundle: Bundle) -> dict[str, dict[str, torch.Tensor]]:
    """Which tensors lie in which file: what members share only once."""

    def plain(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    whole = bundle.model.state_dict()
    if not bundle.members:
        return {TENSORS: plain(whole)}
    own = [one.model.trained_state() for one in bundle.members]
    shared = {name: tensor for name, tensor in whole.items() if name not in own[0]}
    return {TENSORS: plain(shared), **{_member_file(i): plain(state) for i, state in enumerate(own)}}


def _read(file: Path) -> dict[str, torch.Tensor]:
    if file.is_file() and file.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04", b"PK"):
        raise ValueError(f"{file.name} is a pickle, not safetensors: it is not opened")
    with safe_open(file, "pt"):  # a header that is not whole is told before memory is asked for
        pass
    tensors: dict[str, torch.Tensor] = load_file(file)
    return tensors


def _described(task: Task) -> dict[str, Any]:
    return {"name": task.name, **task.to_json()}


def _problem_of(described: Mapping[str, Any]) -> Task:
    state = dict(described)
    return make_task(state.pop("name"), **state)


def _build(folder: Path, document: Mapping[str, Any], task: Task, tensors: dict[str, torch.Tensor]) -> RainbowModel:
    """The model around its tensors: members share those that are the same. Raises `ValueError` where they do not fit.

    It is put together without memory first: what a damaged config asks for is known before it is given.
    """
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in _empty(folder, document, task).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        differ = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ValueError(f"tensors that do not fit its config: {', '.join(differ[:3])}")
    model = _empty(folder, document, task)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _empty(folder: Path, document: Mapping[str, Any], task: Task) -> RainbowModel:
    modalities = document.get("modalities", ["text"])
    bodies = EncoderCache(
        _empty_body(folder / "encoder") if "text" in modalities else None,
        _empty_body(folder / "audio_encoder") if (folder / "audio_encoder").exists() else None,
        audio_normalised=document.get("audio_normalised", True),
    )
    seconds = document.get("windows", {}).get("seconds", 10.0)
    config = ModelConfig.model_validate(document["model"])
    temporal = task.is_sequence_task
    return RainbowModel(bodies, config, task.outputs, modalities, seconds, temporal=temporal)


def _empty_body(folder: Path) -> Any:
    """The encoder's architecture; its weights come from the bundle."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    layers = getattr(config, "num_hidden_layers", 0)
    if not isinstance(layers, int) or layers > MOST_LAYERS:
        raise ValueError(f"{folder.name}/config.json: {layers!r} layers")
    return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
