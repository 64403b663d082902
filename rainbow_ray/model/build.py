"""Construction of a model from a config, the inputs and a task."""

from __future__ import annotations

import numpy as np

from rainbow_ray.config.schema import Config, ModelConfig
from rainbow_ray.data.dataset import Dataset
from rainbow_ray.modalities.rows import load_encoders
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.modalities.text import tokenize
from rainbow_ray.modalities.text.bag_of_words import WordPresence, log_count_ratios
from rainbow_ray.model.fusion import check_fusion
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.model.temporal import check_temporal
from rainbow_ray.tasks.base import Task


def check_model(config: ModelConfig) -> list[str]:
    """Return what is wrong with the sizes of parts of the model.

    Args:
        config: The section `model` of the config.

    Returns:
        Messages, one for each problem.
    """
    return [*check_fusion(config.fusion), *check_temporal(config.temporal)]


def build_model(config: Config, input_spec: InputSpec, task: Task) -> RainbowModel:
    """Return an untrained model around pretrained encoders, on the CPU.

    Args:
        config: Section `model` names the modules and their sizes.
        input_spec: Modalities and encoders. Each call clones the encoders, because a model cuts them to the layers
            that it reads.
        task: Determines the number of logits, and whether examples are segments of songs.

    Returns:
        The model; its random weights come from torch's global generator.

    Raises:
        InputError: A layer or freeze depth exceeds the encoder's.
    """
    return RainbowModel(
        load_encoders(input_spec), config.model, task.outputs, input_spec.modalities, input_spec.seconds,
        temporal=task.is_sequence_task,
    )  # fmt: skip


def fit_bag_of_words(
    bag_of_words: WordPresence | None, dataset: Dataset, indices: np.ndarray, task: Task, config: Config
) -> None:
    """Fit the vocabulary and the word weights of a bag of words to the training examples.

    Args:
        bag_of_words: The module, which is fitted in place; None: nothing is done.
        dataset: Examples with hashed words.
        indices: Training examples, `(n,)`.
        task: Its classes weigh the words where `model.bag_of_words.weighting` is `ratio`.
        config: The weighting, and the seed of the random projection.
    """
    if bag_of_words is None:
        return
    examples = dataset.in_memory_subset(indices)
    words = examples.examples.take(examples.positions).lists(tokenize.WORDS).rows()
    classes = task.one_hot(dataset.targets[examples.indices])
    ratios = log_count_ratios(words, classes) if config.model.bag_of_words.weighting == "ratio" else None
    bag_of_words.fit(words, ratios, config.reproducibility.seed)
