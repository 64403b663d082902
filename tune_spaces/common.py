"""Axes that several phases share."""

from __future__ import annotations

from typing import Any

POOLINGS = ["mean", "cls", "max", "attention"]
FROZEN_DEPTHS = ["all", 0.75, 0.5, 0.25, 0]


def encoder(trial: Any) -> None:
    """Suggest the layer, the freeze depth and the pooling of the text encoder, and the learning rate of trained layers.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    layer = trial.suggest_categorical("model.text_encoder.layer", [0.17, 0.34, 0.5, 0.67, "last", "mix"])
    trial.suggest_categorical("model.text_encoder.pooling", POOLINGS)
    frozen = trial.suggest_categorical("model.text_encoder.freeze_layers", FROZEN_DEPTHS)
    if frozen != "all" and (isinstance(layer, str) or frozen < layer):
        trial.suggest_float("training.learning_rate", 5e-6, 2e-4, log=True)
        trial.suggest_float("training.layer_decay", 0.7, 1.0)
        trial.suggest_float("training.weight_decay", 1e-3, 0.3, log=True)


def head(trial: Any) -> None:
    """Suggest the classifier on top of the features.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    trial.suggest_categorical("model.classifier.hidden_dims", ["", "64", "256", "256,128"])
    trial.suggest_float("model.classifier.dropout", 0.0, 0.5)
    words(trial)


def words(trial: Any) -> None:
    """Suggest the weights of the bag of words.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    trial.suggest_categorical("model.bag_of_words.weighting", ["ratio", "presence"])


def optimizer(trial: Any) -> None:
    """Suggest learning rate, weight decay, warmup and batch size of the head.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    trial.suggest_float("training.head_learning_rate", 1e-4, 1e-2, log=True)
    trial.suggest_float("training.head_weight_decay", 1e-2, 10.0, log=True)
    trial.suggest_float("training.warmup_ratio", 0.0, 0.2)
    trial.suggest_categorical("training.batch_size", [8, 16, 32])


optimiser = optimizer  # former name, which users' own spaces may import
