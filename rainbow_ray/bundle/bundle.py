"""The bundle: a folder from which a model is loaded on any machine, without network access and without unpickling.

model.safetensors      all tensors, including those of the encoder; of an ensemble, those that its members share
member-K.safetensors   tensors of member K of an ensemble
stack.json             linear models and weights of the stacked ensemble of each fit
frozen.safetensors     tensors of the frozen text encoder that the linear models read, as far as no other file has them
novelty.safetensors    features of training songs, with which new songs are compared
bundle.json            description: config, task, columns, calibration, and hashes of the other files
README.md              model card
encoder/               transformers config of the text encoder
audio_encoder/         transformers config of a pretrained audio encoder
tokenizer files        as transformers writes them
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from rainbow_ray.bundle.description import FORMAT, read_description
from rainbow_ray.bundle.frozen_encoder import FROZEN, build_frozen_encoder, empty_encoder, tensors_to_store
from rainbow_ray.bundle.integrity import DESCRIPTION, file_hashes, is_onnx
from rainbow_ray.bundle.novelty import Novelty
from rainbow_ray.bundle.tensor_files import NOVELTY, check_feature_keys, read_novelty, read_tensors
from rainbow_ray.bundle.tokenizer_files import save_tokenizer
from rainbow_ray.calibration.apply import Calibration
from rainbow_ray.config.schema import ModelConfig
from rainbow_ray.modalities.hub import offline, quiet_libraries
from rainbow_ray.modalities.pretrained import TEXT, count_embeddings
from rainbow_ray.modalities.selection import missing_packages
from rainbow_ray.modalities.spec import TEXT_ONLY, get_modality
from rainbow_ray.modalities.text.encoder import TextEncoder
from rainbow_ray.modalities.text.modality import SPEC as TEXT_SPEC
from rainbow_ray.modalities.text.tokenize import check_embeddings
from rainbow_ray.modalities.weight_checks import check_finite
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.stacking.files import STACK, read_stacks, write_stacks
from rainbow_ray.stacking.stack import Stack
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.utils.errors import InputError, first_line
from rainbow_ray.utils.io import atomic_folder
from rainbow_ray.utils.paths import resolve_path

TENSORS = "model.safetensors"
CARD = "README.md"


@dataclass(frozen=True)
class Member:
    """One fit of an ensemble.

    Attributes:
        model: The fitted model.
        task: Its task, with the state that the fit learned.
        calibration: Calibration of its scores.
        fold: Fold whose songs it was not trained on; None for a single model.
        stack: The linear models that it is combined with; None for the neural network alone.
    """

    model: RainbowModel
    task: Task
    calibration: Calibration = field(default_factory=Calibration)
    fold: int | None = None
    stack: Stack | None = None


@dataclass(frozen=True)
class Bundle:
    """A model with everything that predictions need.

    Attributes:
        model: The model; of an ensemble, its first member.
        task: Task that decodes scores. Scores of an ensemble are averaged before.
        tokenizer: Name or folder that `load_tokenizer` takes.
        info: Content of `bundle.json`.
        members: Fits of an ensemble; empty for a single model.
        stack: The linear models that a single model is combined with; None for the neural network alone.
        frozen_encoder: Frozen text encoder whose hidden states linear models and novelty read, or None.
        novelty: Training songs with which examples are compared, or None.
    """

    model: RainbowModel
    task: Task
    tokenizer: str
    info: dict[str, Any]
    members: tuple[Member, ...] = ()
    stack: Stack | None = None
    frozen_encoder: TextEncoder | None = None
    novelty: Novelty | None = None

    @property
    def fits(self) -> tuple[Member, ...]:
        """The members of an ensemble, or the single model as one."""
        return self.members or (Member(self.model, self.task, self.calibration, stack=self.stack),)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stack of each fit; empty where the scores are those of the neural network alone."""
        return tuple(fit.stack for fit in self.fits if fit.stack is not None)

    @property
    def feature_keys(self) -> tuple[str, ...]:
        """Keys of the encoders' features that linear models and novelty read."""
        keys = {key for stack in self.stacks for key in stack.feature_keys}
        return tuple(sorted(keys | set(self.novelty.keys if self.novelty is not None else ())))

    @property
    def calibration(self) -> Calibration:
        """Calibration of the scores; of an ensemble, of its averaged scores."""
        return Calibration.from_json(self.info.get("calibration", {}))

    def member(self, fold: int) -> Bundle:
        """Return the member that was trained without the songs of a fold.

        Args:
            fold: Number of the fold.

        Returns:
            A bundle of one fit.

        Raises:
            InputError: The ensemble has no member of this fold, or the bundle is no ensemble.
        """
        for member in self.members:
            if member.fold == fold:
                info = {**self.info, "calibration": member.calibration.to_json()}
                return Bundle(
                    member.model, member.task, self.tokenizer, info, (), member.stack, self.frozen_encoder, self.novelty
                )  # fmt: skip
        folds = ", ".join(str(member.fold) for member in self.members)
        reason = f"available folds: {folds}" if folds else "it is not an ensemble (train --ensemble)"
        raise InputError(f"this model has no member of fold {fold}: {reason}")


def save_bundle(folder: Path, bundle: Bundle, model_config: ModelConfig, card: str = "") -> None:
    """Write a bundle atomically.

    Args:
        folder: Folder to write; an existing one is replaced.
        bundle: The model.
        model_config: Config section that the model was built from.
        card: Text of `README.md`; "": none.
    """
    model = bundle.model
    with atomic_folder(folder) as temporary:
        for name, tensors in _tensor_files(bundle).items():
            save_file(tensors, temporary / name)
        if model.text is not None:
            save_tokenizer(bundle.tokenizer, temporary, int(bundle.info["max_tokens"]))
        for name in model.modalities:
            subfolder = get_modality(name).encoder_folder
            if subfolder is not None:
                get_modality(name).save_encoder_files(model.encoder_of(name), temporary / subfolder)
        write_stacks(temporary, bundle.stacks)
        if bundle.novelty is not None:
            save_arrays(bundle.novelty.to_arrays(), temporary / NOVELTY)
        if card:
            (temporary / CARD).write_text(card, encoding="utf-8")
        document = {
            "format": FORMAT,
            "model": model_config.model_dump(),
            "modalities": list(model.modalities),
            "audio_normalized": getattr(model.audio, "normalize", True),
            "task": _task_to_json(bundle.task),
            "members": [
                {
                    "fold": member.fold,
                    "task": _task_to_json(member.task),
                    "calibration": member.calibration.to_json(),
                }
                for member in bundle.members
            ],
            "stacks": len(bundle.stacks),
            "frozen_layers": None if bundle.frozen_encoder is None else bundle.frozen_encoder.depth,
            **bundle.info,
            "files": file_hashes(temporary),
        }
        (temporary / DESCRIPTION).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def find_bundle(path: Path) -> Path:
    """Return the folder of a bundle.

    Args:
        path: A run, or a bundle.

    Returns:
        The run's `model/`, or the folder itself.
    """
    return path / "model" if (path / "model" / DESCRIPTION).exists() else path


def bundle_hash(path: Path) -> str:
    """Return a hash that identifies the content of a bundle.

    Args:
        path: A run, or a bundle.

    Returns:
        16 hexadecimal digits of the SHA-256 of its description, which contains the hashes of all other files.
    """
    return hashlib.sha256((find_bundle(resolve_path(path).resolve()) / DESCRIPTION).read_bytes()).hexdigest()[:16]


def load_bundle(path: Path) -> Bundle:
    """Load a bundle of this version or an earlier one.

    Args:
        path: A run, or a bundle.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        InputError: The folder is not a complete bundle, a file is not the one that was saved, or a package that its
            descriptors need is not installed.
    """
    path = resolve_path(path).resolve()
    folder = find_bundle(path)
    if is_onnx(folder):
        raise InputError(f"{path}: an ONNX bundle, written by `export --onnx`, which `predict --text` and"
                         " `rainbow_ray.load` take; name the run that it was exported from here")  # fmt: skip
    try:
        document = read_description(folder)
        names = [TENSORS, *(_member_file(i) for i in range(len(document["members"])))]
        shared, *member_tensors = [read_tensors(folder / name) for name in names]
        stacks = read_stacks(folder)
        frozen = read_tensors(folder / FROZEN) if (folder / FROZEN).exists() else {}
        novelty = read_novelty(folder / NOVELTY) if (folder / NOVELTY).exists() else None
    except FileNotFoundError as error:
        raise InputError(f"{path}: no model here ({Path(error.filename or folder).name} is missing); name a run's"
                         " folder, or its model/ folder") from error  # fmt: skip
    except (OSError, ValueError, SafetensorError, RecursionError) as error:
        raise InputError(f"{path}: the model is damaged ({str(error)[:200]}); copy it again") from error
    try:
        bundle = _build_bundle(folder, document, shared, member_tensors)
        bundle = _with_stacks(folder, dataclasses.replace(bundle, novelty=novelty), stacks, frozen)
    except Exception as error:  # transformers raises many types for damaged configs
        raise InputError(f"{path}: the model is damaged ({first_line(error)}); copy it again") from error
    _check_tokenizer(path, folder, bundle.model)
    if problems := missing_packages(bundle.model.modalities, bundle.model.config):
        raise InputError(f"{path}: {problem}" for problem in problems)
    return bundle


def _build_bundle(
    folder: Path,
    document: dict[str, Any],
    shared: dict[str, torch.Tensor],
    member_tensors: list[dict[str, torch.Tensor]],
) -> Bundle:
    """Build the models of a bundle. Raises `ValueError` and others where it is damaged."""
    described = document["members"]
    task = _task_from_json(document["task"])
    member_tasks = [_task_from_json(member["task"]) for member in described]
    with offline(), quiet_libraries():
        models = [
            _build_model(folder, document, fit_task, {**shared, **state})
            for fit_task, state in zip(member_tasks or [task], member_tensors or [{}], strict=True)
        ]
    calibrations = [Calibration.from_json(member["calibration"]) for member in described]
    for calibration in (*calibrations, Calibration.from_json(document.get("calibration", {}))):
        calibration.check(len(task.score_names))
    not_finite = [message for model in models for message in check_finite(model)]
    if not_finite:
        raise ValueError(not_finite[0])
    fits = zip(models, member_tasks, calibrations, described, strict=True) if described else ()
    members = tuple(
        Member(model, fit_task, calibration, fields["fold"]) for model, fit_task, calibration, fields in fits
    )
    return Bundle(models[0], task, str(folder), document, members)


def _with_stacks(folder: Path, bundle: Bundle, stacks: list[Stack], tensors: dict[str, torch.Tensor]) -> Bundle:
    """Add the stacks and the frozen encoder of a bundle. Raises `ValueError` where they do not fit the model."""
    if len(stacks) != bundle.info.get("stacks", 0):
        raise ValueError(f"{STACK}: {len(stacks)} stacks, and the model has {bundle.info.get('stacks', 0)}")
    for stack in stacks:
        stack.check(bundle.task.base_task.target_type, len(bundle.task.score_names))
    frozen_encoder = None
    if bundle.info.get("frozen_layers") is not None:
        with offline(), quiet_libraries():
            frozen_encoder = build_frozen_encoder(
                folder / str(TEXT_SPEC.encoder_folder), bundle.model.config.text_encoder,
                bundle.info["frozen_layers"], tensors, bundle.model.text,
            )  # fmt: skip
        if not_finite := check_finite(frozen_encoder):
            raise ValueError(f"{FROZEN}: {not_finite[0]}")
    check_feature_keys(bundle.model, stacks, bundle.novelty, frozen_encoder)
    if not stacks:
        return dataclasses.replace(bundle, frozen_encoder=frozen_encoder)
    if not bundle.members:
        return dataclasses.replace(bundle, stack=stacks[0], frozen_encoder=frozen_encoder)
    pairs = zip(bundle.members, stacks, strict=True)
    members = tuple(dataclasses.replace(member, stack=stack) for member, stack in pairs)
    return dataclasses.replace(bundle, members=members, frozen_encoder=frozen_encoder)


def _check_tokenizer(path: Path, folder: Path, model: RainbowModel) -> None:
    """Raise `InputError` for a tokenizer without a vocabulary, or with tokens that the encoder has no embedding for."""
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
    """Return tensors by file; those that members share are stored once."""

    def plain(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    state = bundle.model.state_dict()
    stored = tensors_to_store(bundle.frozen_encoder, bundle.model.text)
    frozen = {FROZEN: plain(stored)} if stored else {}
    if not bundle.members:
        return {TENSORS: plain(state), **frozen}
    member_tensors = [member.model.trained_state() for member in bundle.members]
    shared = {name: tensor for name, tensor in state.items() if name not in member_tensors[0]}
    files = {_member_file(i): plain(tensors) for i, tensors in enumerate(member_tensors)}
    return {TENSORS: plain(shared), **files, **frozen}


def _task_to_json(task: Task) -> dict[str, Any]:
    return {"name": task.name, **task.to_json()}


def _task_from_json(document: Mapping[str, Any]) -> Task:
    state = dict(document)
    return make_task(state.pop("name"), **state)


def _build_model(
    folder: Path, document: Mapping[str, Any], task: Task, tensors: dict[str, torch.Tensor]
) -> RainbowModel:
    """Build a model around tensors, which members share. Raises `ValueError` where shapes do not fit the config.

    The shapes are compared on the meta device first, so that a damaged config cannot allocate memory.
    """
    with torch.device("meta"):
        empty = _empty_model(folder, document, task).state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in empty.items()}
    actual = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != actual:
        differing = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
        raise ValueError(f"tensors that do not fit its config: {', '.join(differing[:3])}")
    model = _empty_model(folder, document, task)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _empty_model(folder: Path, document: Mapping[str, Any], task: Task) -> RainbowModel:
    """Return a model with the architecture of a bundle, and other weights."""
    modalities = document.get("modalities", TEXT_ONLY)
    encoders = {}
    for name in modalities:
        subfolder = get_modality(name).encoder_folder
        if subfolder is not None and (get_modality(name).reads_text or (folder / subfolder).exists()):
            body = empty_encoder(folder / subfolder, get_modality(name).make_body)
            encoders[name] = get_modality(name).wrap_body(body, folder / subfolder, document)
    seconds = document.get("windows", {}).get("seconds", 10.0)
    config = ModelConfig.model_validate(document["model"])
    return RainbowModel(encoders, config, task.outputs, modalities, seconds, temporal=task.is_sequence_task)
