"""Export of a bundle to a folder that transformers loads as a sequence classifier of the encoder's family.

The classifier of a family has one hidden layer on the first token, and a linear layer. A model can be exported if it
has this form: pooling `cls`, one hidden layer of the encoder's width with the family's activation, and no bag of words.
Its standardizer is folded into the hidden layer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rainbow_ray.bundle.bundle import CARD, Bundle
from rainbow_ray.bundle.model_card import hub_use, replace_use
from rainbow_ray.bundle.tokenizer_files import save_tokenizer
from rainbow_ray.exporters.onnx import ScoringGraph, make_inputs
from rainbow_ray.inference.load import HUB_MARK
from rainbow_ray.modalities.text.tokenize import TOKENS
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.nn.standardizer import Standardizer
from rainbow_ray.tasks.base import Task
from rainbow_ray.utils.errors import InputError, TrainingError
from rainbow_ray.utils.io import atomic_folder

TOLERANCE = 1e-4


@dataclass(frozen=True)
class ClassifierLayout:
    """The classifier of a family of encoders in transformers.

    Attributes:
        activation: Activation between its two layers.
        hidden: Name of the hidden layer's module.
        last: Name of the last layer's module.
    """

    activation: str
    hidden: str
    last: str


FAMILIES = {
    "bert": ClassifierLayout("tanh", "bert.pooler.dense", "classifier"),
    "roberta": ClassifierLayout("tanh", "classifier.dense", "classifier.out_proj"),
    "xlm-roberta": ClassifierLayout("tanh", "classifier.dense", "classifier.out_proj"),
    "camembert": ClassifierLayout("tanh", "classifier.dense", "classifier.out_proj"),
    "distilbert": ClassifierLayout("relu", "pre_classifier", "classifier"),
    "deberta-v2": ClassifierLayout("gelu", "pooler.dense", "classifier"),
}


@dataclass(frozen=True)
class HubExport:
    """Result of an export.

    Attributes:
        folder: Folder that transformers loads.
        parity: Largest difference between the scores of the classifier and of the model, on random texts.
        notes: Differences from the bundle.
    """

    folder: Path
    parity: float
    notes: list[str]


def write_hub_folder(bundle: Bundle, folder: Path) -> HubExport:
    """Write a folder for transformers atomically, after comparing its scores with those of the model.

    Args:
        bundle: The model.
        folder: Folder to write; an existing one is replaced.

    Returns:
        The folder, the largest difference of scores, and differences from the bundle.

    Raises:
        InputError: The model does not have the form of the family's classifier.
        TrainingError: The scores of the classifier differ from those of the model.
    """
    problems = _export_problems(bundle)
    if problems:
        raise InputError(problems)
    classifier, notes = _make_classifier(bundle)
    parity = _measure_parity(bundle, classifier)
    if not parity <= TOLERANCE:
        raise TrainingError(f"the scores of the transformers classifier differ from those of the model by {parity:.1e},"
                            f" more than {TOLERANCE:.0e}; nothing was written")  # fmt: skip
    max_tokens = int(bundle.info["max_tokens"])
    with atomic_folder(folder) as temporary:
        classifier.save_pretrained(temporary)
        save_tokenizer(bundle.tokenizer, temporary, max_tokens)
        card = Path(bundle.tokenizer) / CARD
        if card.is_file():
            text = replace_use(card.read_text(encoding="utf-8"), hub_use(max_tokens, notes))
            (temporary / CARD).write_text(text, encoding="utf-8")
        mark = json.dumps({"target": bundle.info.get("target"), "parity": parity})
        (temporary / HUB_MARK).write_text(mark + "\n", encoding="utf-8")
    return HubExport(folder, parity, notes)


def _export_problems(bundle: Bundle) -> list[str]:
    """Messages on what the family's classifier cannot represent, and the config keys that would change it."""
    model, task = bundle.model, bundle.task
    if model.is_fused or model.text is None:
        modalities = ", ".join(model.modalities)
        return [f"--hub-folder: the model reads {modalities}; a sequence classifier of transformers reads text alone"]
    if task.is_sequence_task:
        return ["--hub-folder: the model reads segments in sequence, a sequence classifier of transformers single"
                " texts; see --onnx"]  # fmt: skip
    encoder = model.text.body.config.model_type
    if encoder not in FAMILIES:
        return [f"--hub-folder: the classifier of {encoder!r} in transformers has other layers than this model;"
                f" supported encoders: {', '.join(FAMILIES)}; see --onnx"]  # fmt: skip
    return [*_head_problems(bundle, encoder), *_output_problems(task)]


def _head_problems(bundle: Bundle, encoder: str) -> list[str]:
    """A message on the config keys with which the head would have the form of the family's classifier."""
    model, config = bundle.model, bundle.model.config
    assert model.text is not None
    family, width = FAMILIES[encoder], model.text.width
    conditions = {
        "training.ensemble=false": not bundle.members,
        "training.combine=none": not bundle.stacks,
        "model.bag_of_words.enabled=false": model.bag_of_words is None,
        "model.text_encoder.pooling=cls": config.text_encoder.pooling == "cls",
        "model.text_encoder.layer=last, or a number": not model.text.mixed,
        f"model.classifier.hidden_dims=[{width}]": list(config.classifier.hidden_dims) == [width],
        f"model.classifier.activation={family.activation}": config.classifier.activation == family.activation,
    }
    missing = [key for key, is_met in conditions.items() if not is_met]
    if not missing:
        return []
    return [f"--hub-folder: the head does not have the form of a {encoder!r} classifier; it would with"
            f" {', '.join(missing)}"]  # fmt: skip


def _output_problems(task: Task) -> list[str]:
    """A message on numbers that are transformed after the head."""
    is_transformed = getattr(task, "transform", "none") == "log1p" or _is_bounded(task)
    if task.has_classes or not (is_transformed or task.outputs > 1):
        return []
    return ["--hub-folder: predicted numbers are transformed or bounded after the head, which a sequence classifier"
            " does not do; it would without log1p, without data.target_bounds and with another loss than"
            " zero_inflated"]  # fmt: skip


def _is_bounded(task: Task) -> bool:
    """Whether predicted numbers are clipped."""
    return getattr(task, "low", None) is not None or getattr(task, "high", None) is not None


def _make_classifier(bundle: Bundle) -> tuple[Any, list[str]]:
    """The family's classifier with the weights of the model, and differences from the bundle."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    model, task = bundle.model, bundle.task
    assert model.text is not None
    text = model.text
    classes = [name.removeprefix("score_") for name in task.score_names] if task.outputs > 1 else [
        bundle.info.get("target", "score")
    ]  # fmt: skip
    config = AutoConfig.from_pretrained(Path(bundle.tokenizer) / "encoder", local_files_only=True)
    depth_key = "n_layers" if hasattr(config, "n_layers") else "num_hidden_layers"
    setattr(config, depth_key, text.depth)
    config.num_labels = len(classes)
    config.id2label, config.label2id = dict(enumerate(classes)), {name: i for i, name in enumerate(classes)}
    config.problem_type = _problem_type(task)
    if config.model_type == "deberta-v2":
        config.pooler_hidden_size, config.pooler_hidden_act = text.width, "gelu"
    classifier = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    encoder = getattr(classifier, classifier.base_model_prefix)
    names = encoder.state_dict().keys()
    weights = {name: tensor for name, tensor in text.body.state_dict().items() if name in names}
    missing = {name for name in names if name not in weights and "pooler" not in name}
    assert not missing, missing
    encoder.load_state_dict(weights, strict=False)
    family = FAMILIES[config.model_type]
    _copy_head(classifier.get_submodule(family.hidden), classifier.get_submodule(family.last), model, task)
    notes = []
    if bundle.calibration != type(bundle.calibration)():
        notes.append("calibration and thresholds are not exported: scores are uncalibrated, and the threshold is 0.5")
    if task.has_boolean_labels:
        notes.append("one logit: its sigmoid is the probability of True")
    return classifier, notes


def _problem_type(task: Task) -> str:
    """How transformers names the task."""
    if not task.has_classes:
        return "regression"  # the name in transformers, not that of a task
    return "single_label_classification" if task.has_exclusive_classes else "multi_label_classification"


def _copy_head(hidden: nn.Linear, last: nn.Linear, model: RainbowModel, task: Task) -> None:
    """Copy the head's layers, with the standardizer folded into the first and the scale of numbers into the last."""
    first, second = (layer for layer in model.head if isinstance(layer, nn.Linear))
    with torch.no_grad():
        weight, bias = first.weight.detach(), first.bias.detach()
        if isinstance(model.standardize, Standardizer):
            weight = weight / model.standardize.scale
            bias = bias - weight @ model.standardize.mean
        hidden.weight.copy_(weight)
        hidden.bias.copy_(bias)
        scale, shift = getattr(task, "scale", 1.0), getattr(task, "shift", 0.0)
        last.weight.copy_(second.weight * scale)
        last.bias.copy_(second.bias * scale + shift)


def _measure_parity(bundle: Bundle, classifier: Any) -> float:
    """The largest difference of scores on random texts."""
    inputs = make_inputs(bundle, 5, 40, 3, seed=0)
    with torch.inference_mode():
        expected = ScoringGraph(bundle).eval()(inputs)[0]
        logits = classifier(input_ids=inputs[TOKENS], attention_mask=inputs["mask"]).logits
        scores = bundle.task.scores(logits) if bundle.task.has_classes else logits[:, -1]
    return float((scores - expected).abs().max())
