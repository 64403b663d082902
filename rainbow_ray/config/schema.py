"""The typed config: sections of keys with their types, defaults and descriptions.

Fields say what a key means (`--print-config` prints that as comments). Names of poolings, losses, encoders and
metrics are checked by their owners, so that this file needs no heavy import.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEFAULT_ENCODER = "microsoft/deberta-v3-base"
DEFAULT_AUDIO_ENCODER = "facebook/wav2vec2-base"
DEFAULT_MANIFEST = "data/base_manifest_db.parquet"
# what a result does not depend on, and what a run may be gone on with otherwise
HASH_EXCLUDED: dict[str, Any] = {
    "logging": True,
    # but for `reduction_factor`: it says when trials are compared, and earlier ones were at other times
    "tune": {"trials", "space", "max_concurrent_trials", "gpus_per_trial", "workers_per_trial", "prune",
             "revalidation_seeds", "keep_best_models",
             "budget_minutes", "budget_usd"},
    "training": {"workers", "checkpoint_seconds"},
    "data": {"media_root", "media_cache", "max_unreadable_fraction"},  # where the same files lie
}  # fmt: skip


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
# strict: YAML's `true` is not the number 1
Count = Annotated[int, Field(strict=True, ge=0)]
Whole = Annotated[int, Field(strict=True, gt=0)]
SEEDS = 2**32  # what numpy takes
Seed = Annotated[int, Field(strict=True, ge=0, lt=SEEDS)]
# `strict` keeps 2 an int and 0.33 a float: one counts layers, the other is a share of them
Depth = Annotated[int, Field(strict=True, ge=0)] | Annotated[float, Field(strict=True, ge=0.0, le=1.0)] | str


class Section(BaseModel):
    """Base of every section of the config.

    `renamed` maps former names of keys to their present ones: what an earlier version wrote is read.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=())
    renamed: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_former_names(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        former = {old: new for old, new in cls.renamed.items() if new not in document}
        return {former.get(key, key): value for key, value in document.items()}


class DataConfig(Section):
    renamed = {
        "resident_limit": "in_memory_limit_mb",
        "unit": "example_level",
        "views": "windows_per_stem",
        "max_bad_media": "max_unreadable_fraction",
    }

    manifest_path: str | None = Field(
        None,
        description=f"parquet file, folder of them, or URL; `demo` for the built-in songs; null: {DEFAULT_MANIFEST}",
    )
    id_column: str = Field(
        "id",
        description="column that names the song: a split keeps its rows together; if nobody says, song_id of segments",
    )
    text_columns: list[str] = Field(
        ["concept"],
        min_length=1,
        description="joined by a blank line to one text; if nobody says, lyric_text of segments",
    )
    target_column: str | None = Field(None, description="column, or field of training_data; null: the phase's own")
    target_type: Literal["binary", "multiclass", "regression"] | None = Field(
        None, description="null: the phase's own problem"
    )
    multi_label: bool = Field(False, description="a song may have several classes: lists, or names with a delimiter")
    label_delimiter: str | None = Field(None, description="between the classes of a song; null: any of , ; |")
    class_mapping: dict[str, str | int | None] | None = Field(
        None, description="{label: class} renames, joins or (null) leaves out; {label: number} orders the classes"
    )
    unknown_classes: str = Field("error", description="labels that class_mapping lacks: drop, other, error")
    null_class: str | None = Field(None, description="class of songs without label; null: they are left out")
    rare_classes: str = Field("drop", description="classes of too few songs: drop, other, error")
    min_songs_per_class: Whole = Field(2, description="fewer are too few")
    target_bounds: tuple[float | None, float | None] | None = Field(
        None, description="[least, most] of a number; predictions stay inside"
    )
    train_split: OpenFraction = Field(0.8, description="with folds 1: share of songs trained on")
    val_split: OpenFraction = Field(0.2, description="with folds 1: share of songs scored")
    folds: Whole | None = Field(None, description="null: 5 below 500 songs, otherwise 1")
    split_by: str = Field("id", description="id (song and equal text), a column to hold out whole, or row (leaks)")
    split_file: str | None = Field(None, description="a split.json: songs that it knows keep their place")
    random_seed: Seed | None = Field(None, description="of the split; null: reproducibility.seed")
    example_level: str | None = Field(
        None, description="an example: song (all its stems) or stem; null: the phase's own"
    )
    media_root: str | None = Field(
        None, description="folder that audio and MIDI paths start from; null: the manifest's"
    )
    audio_column: str = Field("audio_file", description="paths, or encoded files as binary; audio_waveform before it")
    midi_column: str = Field("midi_file", description="paths, or files as binary; midi_binary comes before it")
    window_seconds: Annotated[float, Field(gt=0.0, le=600.0)] = Field(
        10.0, description="of audio and MIDI that are read of a stem"
    )
    window_position: str = Field("middle", description="where the window lies: start, middle")
    windows_per_stem: Whole = Field(
        1, description="windows of a stem: the first at its position, others anywhere, seeded"
    )
    max_unreadable_fraction: Fraction = Field(0.2, description="of the files named that may be missing or damaged")
    media_cache: str | None = Field(None, description="folder of what was read of media; null: ~/.cache/rainbow_ray")
    in_memory_limit_mb: Count = Field(
        1024, description="MB of songs, uncompressed, that are kept in memory; more is read anew each epoch"
    )
    require_concept: bool | None = Field(
        None, description="drop rows without text; null: unless audio or MIDI are read too"
    )
    min_concept_length: Count = Field(50, description="characters, where text is required")

    @field_validator("class_mapping", mode="before")
    @classmethod
    def _labels_are_names(cls, value: Any) -> Any:
        """Numbers may be labels; what YAML reads as true or false was meant as a name, and which is not known."""
        if not isinstance(value, dict):
            return value
        if any(isinstance(part, bool) for pair in value.items() for part in pair):
            raise ValueError("write labels such as yes, no, true and false in quotes")
        if any(isinstance(part, str) and not part.strip() for part in value.values()):
            raise ValueError("a class needs a name")
        return {str(label): name.strip() if isinstance(name, str) else name for label, name in value.items()}


class TextEncoderConfig(Section):
    model_name: str | None = Field(
        None, description=f"hub name, local folder, or `embedded`; null: {DEFAULT_ENCODER}, on the demo songs embedded"
    )
    hidden_size: Whole | None = Field(None, description="known from the encoder; kept for older files")
    max_length: Whole = Field(512, description="tokens; longer texts are cut")
    layer: Depth = Field(0.34, description="which layer is read: last, a number, a fraction, or mix (learned)")
    freeze_layers: Depth = Field("all", description="how many of the first layers are frozen: number, fraction, all")
    freeze_embeddings: bool | None = Field(None, description="null: frozen whenever a layer is")
    pooling: str = Field("mean", description="cls, mean, max, attention")


class AudioEncoderConfig(Section):
    renamed = {"width": "hidden_size", "freeze_front": "freeze_feature_extractor", "tokens": "num_tokens"}

    model_name: str | None = Field(
        None,
        description=f"hub name or local folder of a waveform model, or `embedded` (log-mel and a small net);"
        f" null: {DEFAULT_AUDIO_ENCODER}, on the demo songs embedded",
    )
    layer: Depth = Field(0.5, description="which layer is read: last, a number, a fraction, or mix (learned)")
    freeze_feature_extractor: bool = Field(True, description="the convolutions before the layers never learn")
    freeze_layers: Depth = Field("all", description="how many of the first layers are frozen: number, fraction, all")
    num_tokens: Whole = Field(16, description="that a window is averaged to over time")
    hidden_size: Whole = Field(64, description="of the embedded net")
    mask_time: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.1, description="share of a window hidden in training")
    mask_features: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.1, description="share of features hidden")
    gain_db: NotNegative = Field(
        6.0, description="louder or softer in training by so much; waveforms that are trained on"
    )
    noise_db: Annotated[float, Field(le=0.0)] | None = Field(
        -40.0, description="white noise below the sound, in training; waveforms that are trained on; null: none"
    )
    learning_rate: Rate | None = Field(
        None, description="null: training.learning_rate for layers that came trained, otherwise head_learning_rate"
    )


class MidiEncoderConfig(Section):
    renamed = {"width": "hidden_size", "layers": "num_layers", "heads": "num_heads", "tokens": "num_tokens"}

    hidden_size: Whole = 64
    num_layers: Whole = 2
    num_heads: Whole = 4
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    max_notes: Whole = Field(256, description="of a window; later ones are left out, and counted in a warning")
    num_tokens: Whole = Field(16, description="stretches of time that a window's notes are averaged over")
    learning_rate: Rate | None = Field(None, description="null: training.head_learning_rate")


class FusionConfig(Section):
    renamed = {"summaries": "pooled_statistics", "width": "hidden_size", "layers": "num_layers", "heads": "num_heads"}

    kind: str = Field("cross_attention", description="concat, gated, cross_attention")
    hidden_size: Whole = 64
    num_layers: Whole = Field(1, description="of cross-attention")
    num_heads: Whole = 4
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    modality_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.5, description="how often a modality of an example is hidden in training (never all)"
    )
    pooled_statistics: bool = Field(
        True, description="means and spreads of each modality go to the head beside the fusion"
    )
    learning_rate: Rate | None = Field(None, description="null: training.head_learning_rate")


class TemporalConfig(Section):
    renamed = {
        "run_dropout": "context_dropout",
        "width": "hidden_size",
        "layers": "num_layers",
        "heads": "num_heads",
        "stages": "num_stages",
    }

    kind: str = Field("transformer", description="how segments see each other: transformer, tcn, none")
    hidden_size: Whole = 32
    num_layers: Whole = Field(
        1, description="of the transformer; of each stage of the tcn, whose reach doubles with each"
    )
    num_stages: Whole = Field(2, description="of the tcn")
    num_heads: Whole = Field(4, description="of the transformer")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    input_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.8, description="of what is read of each segment")
    context_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.5, description="how often a song's segments do without each other in training: each must stand alone as well"
    )
    weight_decay: NotNegative = 1.0
    learning_rate: Rate | None = Field(None, description="null: training.head_learning_rate")


class BagOfWordsConfig(Section):
    renamed = {"width": "hidden_size"}

    enabled: bool = Field(True, description="which words are present, read beside the encoder")
    hidden_size: Whole = Field(256, description="features that the words are projected to")
    weighting: str = Field("ratio", description="ratio (log-count ratio of the classes) or presence")


class ClassifierConfig(Section):
    renamed = {"standardise": "standardize"}

    hidden_dims: list[Whole] = Field([], description="hidden layers of the head; [] is a linear head")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    activation: str = Field("relu", description="relu, gelu, tanh")
    standardize: bool = Field(True, description="centre and scale the head's inputs by the training side's statistics")


class ModelConfig(Section):
    renamed = {"lexical": "bag_of_words"}

    text_encoder: TextEncoderConfig = TextEncoderConfig()
    audio_encoder: AudioEncoderConfig = AudioEncoderConfig()
    midi_encoder: MidiEncoderConfig = MidiEncoderConfig()
    fusion: FusionConfig = FusionConfig()
    temporal: TemporalConfig = TemporalConfig()
    bag_of_words: BagOfWordsConfig = BagOfWordsConfig()
    classifier: ClassifierConfig = ClassifierConfig()


class EarlyStoppingConfig(Section):
    enabled: bool = Field(False, description="on an inner split of the training side, never on the scored songs")
    patience: Whole = Field(10, description="epochs")
    min_delta: NotNegative = 0.001
    inner_split: OpenFraction = Field(0.15, description="share of the training songs kept for it")


class TrainingConfig(Section):
    renamed = {
        "smoothing_limit": "tmse_clip",
        "smoothing": "tmse_weight",
        "boundary": "boundary_loss_weight",
        "prefix_limit": "feature_cache_mb",
    }

    epochs: Whole = Field(20, description="over all examples; if nobody says, 6 where stems are examples")
    min_steps: Count = Field(300, description="with fewer, batches shrink (not below 8), then epochs grow; 0: never")
    batch_size: Whole = Field(32, description="examples of a micro-batch")
    batch_tokens: Whole | None = Field(None, description="padded tokens of a micro-batch, in place of batch_size")
    gradient_accumulation_steps: Whole = Field(1, description="micro-batches of a step")
    learning_rate: Rate = Field(2e-5, description="of the encoder's last trained layer")
    head_learning_rate: Rate = Field(1e-3, description="of everything that is not the encoder")
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(1.0, description="learning rate of each layer below")
    weight_decay: NotNegative = Field(0.01, description="of the encoder, where it is trained")
    head_weight_decay: NotNegative = Field(3.0, description="of everything that is not the encoder")
    warmup_ratio: Fraction = 0.1
    schedule: str = Field("linear", description="linear or cosine decay, or constant, after the warm-up")
    max_grad_norm: NotNegative = Field(1.0, description="0: no clipping")
    loss: str | None = Field(
        None,
        description="binary: bce, focal, asymmetric, logit_adjusted; classes: cross_entropy, focal, class_balanced,"
        " logit_adjusted; numbers: mse, mae, huber, zero_inflated; null: the first of them, for numbers huber",
    )
    pos_weight: Literal["auto"] | Rate | None = Field(
        "auto", description="of yes; auto: negatives / positives of the training side; null: 1"
    )
    class_weights: Literal["auto", "balanced", "none"] | list[Rate] | dict[str, Rate] = Field(
        "auto",
        description="balanced, none, a list in the order of the classes, or {class: weight}; auto: balanced,"
        " unless there are classes of fewer than 6 songs",
    )
    focal_gamma: NotNegative = Field(2.0, description="only with loss focal")
    class_balanced_beta: OpenFraction = Field(0.999, description="only with loss class_balanced")
    logit_adjustment: NotNegative = Field(1.0, description="tau; only with loss logit_adjusted")
    huber_delta: Rate = Field(1.0, description="in units of the transformed target; with huber and zero_inflated")
    target_transform: str = Field("standardise", description="of numbers: none, standardise, log1p")
    asymmetric_gamma_positive: NotNegative = Field(0.0, description="only with loss asymmetric")
    asymmetric_gamma_negative: NotNegative = Field(4.0, description="only with loss asymmetric")
    asymmetric_margin: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.05, description="only with loss asymmetric")
    tmse_weight: NotNegative = Field(
        0.15, description="of segments: weight of the T-MSE loss, which holds neighbours together; 0: none"
    )
    tmse_clip: Rate = Field(4.0, description="larger jumps of a log-probability than this cost no more")
    boundary_loss_weight: NotNegative = Field(
        0.1, description="of segments: weight of the loss of saying that two neighbours differ, or not; 0: none"
    )
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    sampling: str = Field("none", description="none, oversample, undersample: by song")
    metric: str | None = Field(
        None, description="the headline, for verdict and early stopping; null: macro_f1, for numbers mae"
    )
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    workers: Whole | str | None = Field(
        None, description="that share one fit: a number, or 1..4 (elastic); null: all GPUs, on the CPU one"
    )
    ensemble: bool = Field(
        False, description="keep the folds' models, whose scores are averaged, in place of one more that saw all songs"
    )
    feature_cache_mb: Count = Field(
        8192, description="MB on disk for what frozen layers say, computed once; 0: computed in each step"
    )
    device: str = Field("auto", description="auto, cuda, mps, cpu")
    mixed_precision: bool | Literal["auto", "bf16", "fp16", "off"] = Field(
        "auto", description="auto: bf16 where the device is fast at it, else fp16 on a GPU, else off"
    )
    num_workers: Count | None = Field(None, description="kept for older files: Ray Data decides")
    save_best_only: bool = Field(True, description="kept for older files: the best and the last are kept")
    save_every_n_epochs: Whole | None = Field(None, description="null: as checkpoint_seconds says")
    checkpoint_seconds: NotNegative = Field(60.0, description="between checkpoints, inside epochs too")

    @property
    def headline(self) -> str:
        """The metric, once the problem's own has taken the place of null."""
        assert self.metric is not None, "make_plan settles it"
        return self.metric


class SegmentsConfig(Section):
    renamed = {"together": "max_sequence_length", "bag": "mil_pooling", "compare_none": "no_context_baseline"}

    path: str | None = Field(
        None, description="parquet file of segments, a row a segment and stem; null: made from the manifest"
    )
    seconds: Rate = Field(10.0, description="of each segment, of songs that have neither a structure nor an LRC file")
    max_sequence_length: Whole = Field(
        256, description="segments that are read together; longer songs in overlapping windows"
    )
    overlap: Annotated[float, Field(ge=0.05, le=0.5)] = Field(
        0.25, description="share of a window; the scores are stitched"
    )
    decoding: str = Field("argmax", description="of scores to labels: argmax, median, viterbi")
    filter_width: Whole = Field(3, description="segments; only with median")
    mil_pooling: str = Field(
        "attention",
        description="how a song's label is made of its segments', where these have none: attention, noisy_or",
    )
    no_context_baseline: bool = Field(
        True, description="train the same model without time and neighbours too, as a baseline (twice the cost)"
    )


class CalibrationConfig(Section):
    method: str = Field("none", description="none, temperature, isotonic: learned from out-of-fold scores")
    threshold: str = Field("fixed", description="of yes: fixed (0.5), f1, recall_at_precision, cost")
    precision: Annotated[float, Field(gt=0.0, le=1.0)] = Field(0.9, description="only with recall_at_precision")
    cost_false_positive: Rate = Field(1.0, description="only with cost: of a wrong yes")
    cost_false_negative: Rate = Field(1.0, description="only with cost: of a wrong no")


class TuneConfig(Section):
    renamed = {
        "reduction": "reduction_factor",
        "concurrent": "max_concurrent_trials",
        "keep": "keep_best_models",
        "confirm_seeds": "revalidation_seeds",
    }

    trials: Whole = Field(30, description="of the whole sweep, failed and pruned ones included")
    space: str | None = Field(None, description="FILE:FUNCTION or module:function; null: tune_spaces.phaseN:space")
    max_concurrent_trials: Whole | None = Field(
        None, description="trials side by side; null: as many as there are GPUs or CPUs"
    )
    gpus_per_trial: Rate | None = Field(
        None, description="0.25: four trials share a GPU; null: one GPU, where there is"
    )
    workers_per_trial: Whole = Field(1, description="workers that share each fit of a trial")
    prune: bool = Field(True, description="stop trials that are behind (ASHA)")
    reduction_factor: Annotated[float, Field(ge=1.5, allow_inf_nan=False)] = Field(
        3.0, description="one of so many goes on at each rung"
    )
    revalidation_seeds: Whole = Field(
        3, description="fresh splits that the winner is fitted on, beside the default config"
    )
    keep_best_models: Count = Field(3, description="trials whose models stay on disk")
    budget_minutes: Rate | None = Field(None, description="of this start; running trials then wait for --resume")
    budget_usd: Rate | None = Field(None, description="of this start, at logging.usd_per_hour")


class WandbConfig(Section):
    enabled: bool = False
    project: str = "rainbow-ray"
    entity: str | None = None
    name: str | None = None


class LoggingConfig(Section):
    output_dir: str = Field("runs", description="a run is a folder in it")
    log_every_n_steps: Whole = Field(10, description="steps between training records in metrics.jsonl")
    metrics: list[str] | None = Field(
        None, description="printed each epoch and at the end; null: as the problem has it"
    )
    wandb: WandbConfig = WandbConfig()
    tensorboard: bool = False
    report: bool = Field(True, description="report.html at the end; later: python -m rainbow_ray.report RUN")
    usd_per_hour: NotNegative | None = Field(None, description="of the machine: the cost is then told")

    @property
    def shown(self) -> list[str]:
        """The metrics that are printed."""
        return self.metrics or []


class ReproducibilityConfig(Section):
    seed: Seed = 42
    deterministic: bool = Field(True, description="deterministic algorithms only")


class Config(Section):
    phase: int = Field(
        1, description="1: binary, 2: classes, 3: classes from text, audio and MIDI, 4: a number, 5: segments"
    )
    modalities: list[str] | None = Field(None, description="of text, audio, midi; null: the phase's own")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    segments: SegmentsConfig = SegmentsConfig()
    training: TrainingConfig = TrainingConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    tune: TuneConfig = TuneConfig()
    logging: LoggingConfig = LoggingConfig()
    reproducibility: ReproducibilityConfig = ReproducibilityConfig()

    def hash(self) -> str:
        """Identifies what is trained: everything but where it is logged."""
        document = self.model_dump(exclude=HASH_EXCLUDED)
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]

    def at(self, key: str) -> Any:
        """The value of a dotted key."""
        value: Any = self
        for name in key.split("."):
            value = getattr(value, name)
        return value

    @property
    def split_seed(self) -> int:
        return self.reproducibility.seed if self.data.random_seed is None else self.data.random_seed


T = TypeVar("T")


@functools.cache
def renamed_keys() -> Mapping[str, str]:
    """Return the present dotted key of each former one."""
    return dict(_renamed(Config, "", ""))


def with_present_keys(values: Mapping[str, T]) -> dict[str, T]:
    """Return values by dotted key with each former key replaced by its present name.

    Args:
        values: Values by dotted key, as an earlier version may have written them.

    Returns:
        The same values in the same order. A value under the present name has precedence over one under a former name.
    """
    renamed = renamed_keys()
    return {renamed.get(key, key): value for key, value in values.items() if renamed.get(key) not in values}


def _renamed(section: type[Section], former: str, present: str) -> Iterator[tuple[str, str]]:
    sections = {name: f.annotation for name, f in section.model_fields.items()}
    names = [*((name, name) for name in sections), *section.renamed.items()]
    for old, new in names:
        kind = sections[new]
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _renamed(kind, f"{former}{old}.", f"{present}{new}.")
        elif f"{former}{old}" != f"{present}{new}":
            yield f"{former}{old}", f"{present}{new}"
