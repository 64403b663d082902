"""Which fits are solved to the optimum of a convex problem, instead of trained in steps."""

from __future__ import annotations

from rainbow_ray.config.schema import Config

# losses that are convex in the logits
CONVEX_LOSSES = ("bce", "cross_entropy", "class_balanced", "logit_adjusted", "auto", "huber", "mse", "zero_inflated")
# Losses of `training.solver: auto`. A fixed number of steps of AdamW is better for classification and worse for
# regression (`python -m tests.benchmarks.solver`).
SOLVED_LOSSES = ("auto", "huber", "mse", "zero_inflated")
MAX_SOLVED_EXAMPLES = 10_000  # of a run; steps take less time for more


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
        "training.sampling draws other examples in each epoch": config.training.sampling != "none",
        "a fusion of modalities is trained": not reads_only_text,
        "model.text_encoder.freeze_layers is not all": encoder.freeze_layers != "all",
        "the embeddings of the encoder are trained": encoder.freeze_embeddings is False,
        "attention pooling is trained": encoder.pooling == "attention",
        "the weights of model.text_encoder.layer=mix are trained": encoder.layer == "mix",
        "the classifier has hidden layers": bool(classifier.hidden_dims),
        "the classifier has dropout": classifier.dropout > 0,
    }
    return [reason for reason, holds in conditions.items() if holds]


def trains_no_encoder(config: Config) -> bool:
    """Return whether all weights of the text encoder stay as they are.

    Args:
        config: The config with defaults resolved.

    Returns:
        True if only pooling and the layers after it are trained.
    """
    encoder = config.model.text_encoder
    return encoder.freeze_layers == "all" and encoder.freeze_embeddings is not False


def can_grow_steps(config: Config, *, reads_only_text: bool, is_sequence_task: bool) -> bool:
    """Return whether the optimizer steps of a config may grow up to `training.step_tokens`.

    Args:
        config: The config with defaults resolved.
        reads_only_text: Whether the model reads no other modality than text.
        is_sequence_task: Whether examples are segments.

    Returns:
        True for songs of text alone, where layers of the encoder are trained.
    """
    return reads_only_text and not is_sequence_task and not trains_no_encoder(config)


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


def can_be_solved(n_examples: int, *, in_memory: bool) -> bool:
    """Return whether the data of a run allow to solve its classifiers.

    Args:
        n_examples: Number of all examples of the run, so that the folds and the refit do the same.
        in_memory: Whether the examples are in memory, not streamed.

    Returns:
        True if they are in memory and not too many.
    """
    return in_memory and n_examples <= MAX_SOLVED_EXAMPLES
