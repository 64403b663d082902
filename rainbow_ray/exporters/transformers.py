"""A bundle as plain transformers loads it: the encoder and the head as that family's own classifier.

A family's classifier is one hidden layer over the first token, then a linear layer. Ours is that where it pools `cls`,
has one hidden layer of the encoder's width with the family's activation, and reads no words beside it. Centring and
scaling go into the hidden layer's weights.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rainbow_ray.bundle.bundle import CARD, Bundle
from rainbow_ray.bundle.model_card import hub_use, with_use
from rainbow_ray.bundle.tokenizer_files import save_tokenizer
from rainbow_ray.exporters.onnx import Graph, make_inputs
from rainbow_ray.inference.load import HUB_MARK
from rainbow_ray.modalities.text.encoder import TOKENS
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.nn.standardizer import Standardizer
from rainbow_ray.tasks.base import Task
from rainbow_ray.utils.errors import InputError, TrainingError

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Family:
    """Where a family's classifier keeps its two layers, and what lies between them."""

    activation: str
    hidden: str
    last: str


FAMILIES = {
    "bert": Family("tanh", "bert.pooler.dense", "classifier"),
    "roberta": Family("tanh", "classifier.dense", "classifier.out_proj"),
    "xlm-roberta": Family("tanh", "classifier.dense", "classifier.out_proj"),
    "camembert": Family("tanh", "classifier.dense", "classifier.out_proj"),
    "distilbert": Family("relu", "pre_classifier", "classifier"),
    "deberta-v2": Family("gelu", "pooler.dense", "classifier"),
}


@dataclass(frozen=True)
class Written:
    folder: Path
    parity: float
    notes: list[str]


def write_hub_folder(bundle: Bundle, folder: Path) -> Written:
    """Write the folder. Raises `InputError` for a head that the family's classifier cannot be."""
    problems = _why_not(bundle)
    if problems:
        raise InputError(problems)
    made, notes = _classifier(bundle)
    parity = _parity(bundle, made)
    if not parity <= TOLERANCE:
        raise TrainingError(f"the folder would score otherwise than the model: logits are off by {parity:.1e};"
                            " nothing was written")  # fmt: skip
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    made.save_pretrained(temporary)
    save_tokenizer(bundle.tokenizer, temporary, int(bundle.info["max_tokens"]))
    card = Path(bundle.tokenizer) / CARD
    if card.is_file():
        text = with_use(card.read_text(encoding="utf-8"), hub_use(int(bundle.info["max_tokens"]), notes))
        (temporary / CARD).write_text(text, encoding="utf-8")
    (temporary / HUB_MARK).write_text(json.dumps({"target": bundle.info.get("target"), "parity": parity}) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)
    return Written(folder, parity, notes)


def _why_not(bundle: Bundle) -> list[str]:
    """What about the model a plain classifier has no place for, and which keys would have it one."""
    model, config, task = bundle.model, bundle.model.config, bundle.task
    if model.modalities != ("text",) or model.text is None:
        return [f"--hub-folder: it reads {', '.join(model.modalities)}; a classifier of transformers reads text alone"]
    if task.is_sequence_task:
        return ["--hub-folder: segments and their neighbours are no single text; see --onnx"]
    kind = model.text.body.config.model_type
    if kind not in FAMILIES:
        return [f"--hub-folder: the classifier of {kind!r} has layers that ours has not; there are:"
                f" {', '.join(FAMILIES)}; see --onnx"]  # fmt: skip
    family, width = FAMILIES[kind], model.text.width
    wanted = {
        "training.ensemble=false": not bundle.members,
        "model.bag_of_words.enabled=false": model.words is None,
        "model.text_encoder.pooling=cls": config.text_encoder.pooling == "cls",
        "model.text_encoder.layer=last, or a number": not model.text.mixed,
        f"model.classifier.hidden_dims=[{width}]": list(config.classifier.hidden_dims) == [width],
        f"model.classifier.activation={family.activation}": config.classifier.activation == family.activation,
    }
    lacking = [key for key, there in wanted.items() if not there]
    problems = []
    if lacking:
        problems.append(f"--hub-folder: the head is not one that a {kind!r} classifier can be; it would be with"
                        f" {', '.join(lacking)}")  # fmt: skip
    transformed = getattr(task, "transform", "none") == "log1p" or _is_bounded(task)
    if not task.has_classes and (transformed or task.outputs > 1):
        problems.append("--hub-folder: its numbers are transformed or bounded after the head, which a plain classifier"
                        " does not do; it would be without log1p, without data.target_bounds and"
                        " with another loss than zero_inflated")  # fmt: skip
    return problems


def _is_bounded(task: Task) -> bool:
    return getattr(task, "low", None) is not None or getattr(task, "high", None) is not None


def _classifier(bundle: Bundle) -> tuple[Any, list[str]]:
    """The family's own model with our weights, and what a person must know of it."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    model, task = bundle.model, bundle.task
    assert model.text is not None
    text = model.text
    classes = [name.removeprefix("score_") for name in task.score_names] if task.outputs > 1 else [
        bundle.info.get("target", "score")
    ]  # fmt: skip
    config = AutoConfig.from_pretrained(Path(bundle.tokenizer) / "encoder", local_files_only=True)
    count = "n_layers" if hasattr(config, "n_layers") else "num_hidden_layers"
    setattr(config, count, text.depth)
    config.num_labels = len(classes)
    config.id2label, config.label2id = dict(enumerate(classes)), {name: i for i, name in enumerate(classes)}
    config.problem_type = {"regression": "regression", "multiclass": "single_label_classification"}.get(
        task.target_type, "multi_label_classification"
    )
    if config.model_type == "deberta-v2":
        config.pooler_hidden_size, config.pooler_hidden_act = text.width, "gelu"
    made = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    wanted = getattr(made, made.base_model_prefix).state_dict()
    ours = {name: tensor for name, tensor in text.body.state_dict().items() if name in wanted}
    lost = {name for name in wanted if name not in ours and "pooler" not in name}
    assert not lost, lost
    getattr(made, made.base_model_prefix).load_state_dict(ours, strict=False)
    family = FAMILIES[config.model_type]
    _fill(made.get_submodule(family.hidden), made.get_submodule(family.last), model, task)
    notes = []
    if bundle.calibration != type(bundle.calibration)():
        notes.append("calibration and thresholds are not in it: its scores are those before, and yes is from 0.5 on")
    if task.target_type == "binary":
        notes.append("one logit: its sigmoid is the probability of True")
    return made, notes


def _fill(hidden: nn.Linear, last: nn.Linear, model: RainbowModel, task: Task) -> None:
    """Our two layers into the family's, centring and scaling folded into the first, a number's unit into the last."""
    ours = [layer for layer in model.head if isinstance(layer, nn.Linear)]
    assert len(ours) == 2
    first, second = ours
    with torch.no_grad():
        weight, bias = first.weight.detach(), first.bias.detach()
        if isinstance(model.standardise, Standardizer):
            weight = weight / model.standardise.scale
            bias = bias - weight @ model.standardise.mean
        hidden.weight.copy_(weight)
        hidden.bias.copy_(bias)
        scale, shift = getattr(task, "scale", 1.0), getattr(task, "shift", 0.0)
        last.weight.copy_(second.weight * scale)
        last.bias.copy_(second.bias * scale + shift)


def _parity(bundle: Bundle, made: Any) -> float:
    """The largest difference of scores on made-up texts."""
    inputs = make_inputs(bundle, 5, 40, 3, seed=0)
    with torch.inference_mode():
        wanted = Graph(bundle).eval()(inputs)
        logits = made(input_ids=inputs[TOKENS], attention_mask=inputs["mask"]).logits
        found = logits[:, -1] if not bundle.task.has_classes else bundle.task.scores(logits)
    return float((found - wanted).abs().max())
