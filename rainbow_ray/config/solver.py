"""Which fits are solved to the optimum of a convex problem, instead of trained in steps."""

from __future__ import annotations

from rainbow_ray.config.schema import Config

# losses that are convex in the logits
CONVEX_LOSSES = ("bce", "cross_entropy", "class_balanced", "logit_adjusted", "auto", "huber", "mse", "zero_inflated")
# Losses of `training.solver: auto`. Steps of AdamW, stopped early, give better classes, and worse numbers
# (`python -m tests.benchmarks.solver`).
SOLVED_LOSSES = ("auto", "huber", "mse", "zero_inflated")


def obstacles_to_solving(config: Config, *, reads_only_text: bool, is_sequence_task: bool) -> list[str]:
    """Return why the fits of a config are not a convex problem.

    Args:
        config: The config with defaults resolved.
        reads_only_text: Whether the model reads no other modality than text.
        is_sequence_task: Whether examples are segments.

    Returns:
        A clause for each reason; empty if only a linear classifier on constant features is trained, with a convex loss.
    """
    encoder, classifier = config.model.text_encoder, config.model.classifier
    conditions = {
        f"the loss {config.training.loss} is not convex": config.training.loss not in CONVEX_LOSSES,
        "examples are segments": is_sequence_task,
        "a fusion of modalities is trained": not reads_only_text,
        "layers of the encoder are trained": encoder.freeze_layers not in ("all", 1.0),
        "the embeddings of the encoder are trained": encoder.freeze_embeddings is False,
        "attention pooling is trained": encoder.pooling == "attention",
        "the weights of model.text_encoder.layer=mix are trained": encoder.layer == "mix",
        "the classifier has hidden layers": bool(classifier.hidden_dims),
        "the classifier has dropout": classifier.dropout > 0,
    }
    return [reason for reason, holds in conditions.items() if holds]


def is_solved(config: Config, *, reads_only_text: bool, is_sequence_task: bool) -> bool:
    """Return whether the fits of a config are solved: `training.solver`, where the problem allows it.

    Args:
        config: The config with defaults resolved.
        reads_only_text: Whether the model reads no other modality than text.
        is_sequence_task: Whether examples are segments.

    Returns:
        True for fits that are solved.
    """
    solver, loss = config.training.solver, config.training.loss
    if solver == "adamw" or (solver == "auto" and loss not in SOLVED_LOSSES):
        return False
    return not obstacles_to_solving(config, reads_only_text=reads_only_text, is_sequence_task=is_sequence_task)
