"""Config keys that have no effect, given other keys, the task and the data: one table with the reasons.

The table has no row for a certain task or modality. These have rows of their own (`Task.unused_keys`,
`ModalitySpec.unused_keys`), which reach this module, that can import neither, as part of the `RunFacts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rainbow_ray.config.keys import known_keys
from rainbow_ray.config.schema import Config
from rainbow_ray.config.solver import can_grow_steps, is_solved


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run besides its config.

    Attributes:
        rows: Rows of the task and of the modalities.
        reads_only_text: Whether the model reads no other modality than text.
        has_classes: Whether labels are classes, not numbers.
        is_sequence_task: Whether examples are segments.
        has_segment_labels: Whether segments have labels of their own; None before the labels are read.
        supports_calibration: Whether the task's scores can be calibrated.
        supports_thresholds: Whether a threshold on the score makes the task's prediction.
        n_folds: Number of folds; None before the data are split.
        can_be_solved: Whether a linear classifier can be solved: the examples are in memory and not too many; None
            before the data are read.
    """

    rows: tuple[UnusedKeys, ...] = ()
    reads_only_text: bool = True
    has_classes: bool = True
    is_sequence_task: bool = False
    has_segment_labels: bool | None = None
    supports_calibration: bool = True
    supports_thresholds: bool = True
    n_folds: int | None = None
    can_be_solved: bool | None = None


Condition = Callable[[Config, RunFacts], bool]


@dataclass(frozen=True)
class UnusedKeys:
    """A row of the table.

    Attributes:
        keys: Dotted keys; a name that ends with a period stands for all keys that begin with it.
        condition: Whether the keys have no effect.
        reason: Reason, as a format string of `config` and `facts`.
        except_keys: Dotted keys that the row does not apply to.
    """

    keys: tuple[str, ...]
    condition: Condition
    reason: str
    except_keys: tuple[str, ...] = ()

    def matches(self, key: str) -> bool:
        """Return whether the row is about a key.

        Args:
            key: Dotted key.

        Returns:
            True for a key that is listed, or that begins with a listed prefix, and is not excepted.
        """
        is_listed = any(key.startswith(name) if name.endswith(".") else key == name for name in self.keys)
        return is_listed and key not in self.except_keys


def section_keys(prefix: str, *names: str) -> tuple[str, ...]:
    """Return dotted keys of one section.

    Args:
        prefix: Dotted key of the section.
        *names: Names of keys in it.

    Returns:
        A dotted key for each name.
    """
    return tuple(f"{prefix}.{name}" for name in names)


def always(config: Config, facts: RunFacts) -> bool:  # noqa: ARG001
    """Return True: the condition of a row of a task or modality that depends on nothing else.

    Args:
        config: Not read.
        facts: Not read.

    Returns:
        True.
    """
    return True


def _loss_is_not(*losses: str) -> Condition:
    return lambda config, _: config.training.loss not in losses


def _reads_only_text(_: Config, facts: RunFacts) -> bool:
    return facts.reads_only_text


def _reads_lyrics(config: Config, facts: RunFacts) -> bool:
    """Return whether segments are derived from LRC files, which lie with the media."""
    return facts.is_sequence_task and config.segments.path is None


def _is_sequence(_: Config, facts: RunFacts) -> bool:
    return facts.is_sequence_task


def _has_no_segments(_: Config, facts: RunFacts) -> bool:
    return not facts.is_sequence_task


def _is_segment_regression(_: Config, facts: RunFacts) -> bool:
    return facts.is_sequence_task and not facts.has_classes


def _is_solved(config: Config, facts: RunFacts) -> bool:
    return is_solved(config, reads_only_text=facts.reads_only_text, is_sequence_task=facts.is_sequence_task)


def _cannot_grow_steps(config: Config, facts: RunFacts) -> bool:
    return not can_grow_steps(config, reads_only_text=facts.reads_only_text, is_sequence_task=facts.is_sequence_task)


def _has_no_segment_labels(_: Config, facts: RunFacts) -> bool:
    return facts.is_sequence_task and facts.has_segment_labels is False


# keys that several rows are about
CLASS_KEYS = section_keys("data", "label_delimiter", "null_class", "rare_classes", "min_songs_per_class")
MEDIA_KEYS = section_keys(
    "data",
    "example_level",
    "media_root",
    "media_cache",
    "window_seconds",
    "window_position",
    "windows_per_stem",
    "max_unreadable_fraction",
    "audio_column",
    "midi_column",
)
THRESHOLD_KEYS = section_keys("calibration", "threshold", "precision", "cost_false_positive", "cost_false_negative")
NUMBER_KEYS = ("data.target_bounds", *section_keys("training", "target_transform", "huber_delta"))
ASYMMETRIC_KEYS = section_keys(
    "training", "asymmetric_gamma_positive", "asymmetric_gamma_negative", "asymmetric_margin"
)

STEP_KEYS = section_keys(  # that only training in steps reads
    "training",
    "epochs",
    "min_steps",
    "batch_size",
    "batch_tokens",
    "step_tokens",
    "gradient_accumulation_steps",
    "learning_rate",
    "head_learning_rate",
    "layer_decay",
    "weight_decay",
    "head_weight_decay",
    "warmup_ratio",
    "schedule",
    "max_grad_norm",
    "compile",
    "save_every_n_epochs",
    "checkpoint_seconds",
)

# the first row that matches a key gives the reason: of these, then of the task and the modalities, then of `TABLE`
SEGMENT_TABLE = (  # its reasons are more specific than those of songs
    UnusedKeys(
        ("segments.", "model.temporal.", *section_keys("training", "tmse_weight", "tmse_clip", "boundary_loss_weight")),
        _has_no_segments,
        "phase {config.phase} has no segments",
    ),
    UnusedKeys(("data.example_level",), _is_sequence, "each example is a segment"),
    UnusedKeys(
        section_keys("data", "require_concept", "min_concept_length"),
        _is_sequence,
        "segments can be short, or have no text",
    ),
    UnusedKeys(
        section_keys("data", "window_position", "windows_per_stem"), _is_sequence, "the window is that of the segment"
    ),
    UnusedKeys(
        ("data.window_position",),
        lambda config, _: config.data.windows_per_stem == "all",
        "all windows of a stem are read",
    ),
    UnusedKeys(("calibration.",), _is_sequence, "segments are decoded: see segments.decoding"),
    UnusedKeys(
        ("model.temporal.", "segments.no_context_baseline"),
        lambda config, _: config.model.temporal.kind == "none",
        "model.temporal.kind is none",
        except_keys=("model.temporal.kind",),
    ),
    UnusedKeys(
        ("model.temporal.num_stages",),
        lambda config, _: config.model.temporal.kind != "tcn",
        "model.temporal.kind is {config.model.temporal.kind}",
    ),
    UnusedKeys(
        ("model.temporal.num_heads",),
        lambda config, _: config.model.temporal.kind == "tcn",
        "model.temporal.kind is tcn",
    ),
    UnusedKeys(
        ("segments.seconds",),
        lambda config, _: config.segments.path is not None,
        "the table of segments has their times",
    ),
    UnusedKeys(
        ("segments.filter_width",),
        lambda config, _: config.segments.decoding != "median",
        "segments.decoding is {config.segments.decoding}",
    ),
    UnusedKeys(
        ("training.combine",), _has_no_segment_labels, "only songs have labels: the neural network is kept alone"
    ),
    UnusedKeys(("training.boundary_loss_weight",), _is_segment_regression, "a numeric target has no boundaries"),
    UnusedKeys(
        ("segments.mil_pooling",), _is_segment_regression, "a numeric target is learned from labels of segments only"
    ),
    UnusedKeys(
        ("segments.mil_pooling",),
        lambda _, facts: facts.has_segment_labels is True,
        "segments have labels of their own",
    ),
    UnusedKeys(
        (
            *section_keys("segments", "decoding", "filter_width", "max_sequence_length", "overlap"),
            *section_keys("training", "tmse_weight", "tmse_clip", "boundary_loss_weight"),
        ),
        _has_no_segment_labels,
        "only songs have labels, and all segments of a song are pooled",
    ),
)

TABLE = (
    # labels and losses
    UnusedKeys(
        ("data.unknown_classes",), lambda config, _: config.data.class_mapping is None, "there is no data.class_mapping"
    ),
    UnusedKeys(("data.label_delimiter",), lambda config, _: not config.data.multi_label, "data.multi_label is off"),
    UnusedKeys(
        ("training.step_tokens",), _cannot_grow_steps, "steps grow only for texts of songs with trained encoder layers"
    ),
    UnusedKeys(("training.focal_gamma",), _loss_is_not("focal"), "the loss is {config.training.loss}, not focal"),
    UnusedKeys(ASYMMETRIC_KEYS, _loss_is_not("asymmetric"), "the loss is {config.training.loss}, not asymmetric"),
    UnusedKeys(
        ("training.class_balanced_beta",),
        _loss_is_not("class_balanced"),
        "the loss is {config.training.loss}, not class_balanced",
    ),
    UnusedKeys(
        ("training.logit_adjustment",),
        _loss_is_not("logit_adjusted"),
        "the loss is {config.training.loss}, not logit_adjusted",
    ),
    UnusedKeys(
        ("training.huber_delta",), _loss_is_not("auto", "huber", "zero_inflated"), "the loss is {config.training.loss}"
    ),
    UnusedKeys(
        ("training.pos_weight",),
        lambda config, _: config.training.loss == "logit_adjusted",
        "the loss logit_adjusted has its own weights",
    ),
    # calibration
    UnusedKeys(("calibration.",), lambda _, facts: not facts.supports_calibration, "numbers are not calibrated"),
    UnusedKeys(THRESHOLD_KEYS, lambda _, facts: not facts.supports_thresholds, "the most probable class is predicted"),
    UnusedKeys(
        ("calibration.precision",),
        lambda config, _: config.calibration.threshold != "recall_at_precision",
        "the threshold is {config.calibration.threshold}",
    ),
    UnusedKeys(
        section_keys("calibration", "cost_false_positive", "cost_false_negative"),
        lambda config, _: config.calibration.threshold != "cost",
        "the threshold is {config.calibration.threshold}",
    ),
    # modalities and parts of the model
    UnusedKeys(
        section_keys("data", "media_root", "max_unreadable_fraction"),
        lambda config, facts: _reads_only_text(config, facts) and not _reads_lyrics(config, facts),
        "only text is read",
    ),
    UnusedKeys(
        (*MEDIA_KEYS, "model.fusion."),
        _reads_only_text,
        "only text is read",
        except_keys=section_keys("data", "media_root", "max_unreadable_fraction"),
    ),
    UnusedKeys(
        section_keys("model.fusion", "num_layers", "num_heads", "dropout"),
        lambda config, _: config.model.fusion.kind != "cross_attention",
        "only with model.fusion.kind: cross_attention",
    ),
    UnusedKeys(
        section_keys("model.bag_of_words", "hidden_size", "weighting"),
        lambda config, _: not config.model.bag_of_words.enabled,
        "model.bag_of_words.enabled is false",
    ),
    UnusedKeys(
        ("model.classifier.activation",),
        lambda config, _: not config.model.classifier.hidden_dims,
        "the classifier has no hidden layer",
    ),
    # training and splits
    UnusedKeys(
        (*STEP_KEYS, "training.early_stopping.", "logging.log_every_n_steps"),
        lambda config, facts: facts.can_be_solved is True and _is_solved(config, facts),
        "the linear classifier is solved, not trained in steps; training.solver=adamw trains it",
    ),
    UnusedKeys(
        ("training.solver",),
        lambda config, facts: facts.can_be_solved is False and _is_solved(config, facts),
        "there are more than 10,000 examples, or they are streamed: the classifier is trained in steps",
    ),
    UnusedKeys(
        section_keys("training.early_stopping", "patience", "min_delta", "inner_split"),
        lambda config, _: not config.training.early_stopping.enabled,
        "early stopping is off",
    ),
    UnusedKeys(
        section_keys("data", "train_split", "val_split", "random_seed"),
        lambda config, _: config.data.split_file is not None,
        "the split is that of data.split_file",
    ),
    UnusedKeys(
        section_keys("data", "train_split", "val_split"),
        lambda _, facts: facts.n_folds is not None and facts.n_folds > 1,
        "the split has {facts.n_folds} folds; a single split needs --folds 1",
    ),
    UnusedKeys(("training.ensemble",), lambda _, facts: facts.n_folds == 1, "a single split trains one model"),
)


def find_unused_keys(config: Config, facts: RunFacts) -> dict[str, str]:
    """Return keys that have no effect.

    Args:
        config: The resolved config.
        facts: What is known of the task and the data.

    Returns:
        Reasons by dotted key, in the order of the schema.
    """
    active = [row for row in (*SEGMENT_TABLE, *facts.rows, *TABLE) if row.condition(config, facts)]
    reasons = ((key, next((row.reason for row in active if row.matches(key)), None)) for key in known_keys())
    return {key: reason.format(config=config, facts=facts) for key, reason in reasons if reason is not None}


def changed_keys(config: Config) -> Iterator[str]:
    """Yield keys whose values differ from their defaults.

    Args:
        config: The config.

    Yields:
        Dotted keys, in the order of the schema.
    """
    default = Config()
    yield from (key for key in known_keys() if config.at(key) != default.at(key))
