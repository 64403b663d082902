"""The sections `training`, `segments` and `calibration`: losses, optimization, decoding and thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rainbow_ray.config.choices import (
    CalibrationMethod,
    Combine,
    Decoding,
    Device,
    Loss,
    MilPooling,
    Precision,
    Sampling,
    Schedule,
    Solver,
    TargetTransform,
    ThresholdRule,
)
from rainbow_ray.config.section import (
    Fraction,
    Names,
    NonNegative,
    NonNegativeInt,
    OpenFraction,
    Positive,
    PositiveInt,
    Probability,
    Section,
)


class EarlyStoppingConfig(Section):
    """Early stopping on an inner split of the training set; the validation set is never used for it."""

    enabled: bool = Field(
        False, description="stop when training.metric no longer improves on an inner split of the training set"
    )
    patience: PositiveInt = Field(10, description="number of epochs without improvement before training stops")
    min_delta: NonNegative = Field(0.001, description="minimum change of the metric that counts as an improvement")
    inner_split: OpenFraction = Field(0.15, description="fraction of the training songs held out for early stopping")


class TrainingConfig(Section):
    """Loss, optimizer, batches, hardware and checkpoints."""

    renamed: ClassVar[Names] = {
        "smoothing_limit": "tmse_clip",
        "smoothing": "tmse_weight",
        "boundary": "boundary_loss_weight",
        "prefix_limit": "feature_cache_mb",
    }
    renamed_values: ClassVar[Mapping[str, Names]] = {"target_transform": {"standardise": "standardize"}}
    inert: ClassVar[Names] = {
        "num_workers": "Ray Data chooses the number of readers",
        "save_best_only": "the best and the last checkpoint are always kept",
    }

    solver: Solver = Field(
        "auto",
        description="lbfgs: solve a linear classifier on a frozen encoder to the optimum, with an L2 penalty chosen by"
        " cross-validation inside the training set; adamw: train in steps; auto: lbfgs for regression of up to"
        " 10,000 songs from text with a frozen encoder, otherwise adamw",
    )
    epochs: PositiveInt = Field(20, description="number of epochs; 6 by default if an example is a stem")
    min_steps: NonNegativeInt = Field(
        300,
        description="minimum number of optimizer steps: batches shrink down to 8 examples, then epochs are added;"
        " 0: no minimum",
    )
    batch_size: PositiveInt = Field(32, description="number of examples per micro-batch")
    batch_tokens: PositiveInt | None = Field(
        None,
        description="number of padded tokens per micro-batch, in place of batch_size; null: batch_size, and on a"
        " GPU 16,384 tokens where texts are read alone and neither batch_size nor step_tokens is set",
    )
    step_tokens: NonNegativeInt | None = Field(
        None,
        description="texts with trained encoder layers: number of tokens up to which optimizer steps grow, by doubling"
        " batches, as long as 2,000 steps are left; learning rates grow with the square root; 0: off; null: 32,768,"
        " or 0 where batch_size or gradient_accumulation_steps is set or suggested by a search space",
    )
    gradient_accumulation_steps: PositiveInt = Field(1, description="number of micro-batches per optimizer step")
    learning_rate: Positive = Field(2e-5, description="learning rate of the highest trained layer of the encoder")
    head_learning_rate: Positive = Field(1e-3, description="learning rate of all parts that are not pretrained")
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="factor of the learning rate from each encoder layer to the one below"
    )
    weight_decay: NonNegative = Field(0.01, description="weight decay of the trained encoder layers")
    head_weight_decay: NonNegative = Field(3.0, description="weight decay of all parts that are not pretrained")
    warmup_ratio: Fraction = Field(0.1, description="fraction of the steps in which the learning rate warms up")
    schedule: Schedule = Field("linear", description="decay of the learning rate after the warm-up")
    max_grad_norm: NonNegative = Field(1.0, description="maximum norm of the gradient; 0: no clipping")
    loss: Loss | None = Field(
        None,
        description="loss function; binary: bce, focal, asymmetric, logit_adjusted; multiclass: cross_entropy, focal,"
        " class_balanced, logit_adjusted; multi-label: bce, focal, class_balanced, logit_adjusted; regression: auto,"
        " huber, mse, mae, zero_inflated; null: the first one listed. auto is zero_inflated where a third of the"
        " targets is 0 and the metric is mae, otherwise huber",
    )
    pos_weight: Literal["auto"] | Positive | None = Field(
        "auto",
        description="binary: weight of the positive class; auto: negatives / positives of the training set; null: 1",
    )
    class_weights: Literal["auto", "balanced", "none"] | list[Positive] | dict[str, Positive] = Field(
        "auto",
        description="a list in the order of the classes, {class: weight}, balanced, or none; auto: balanced, unless"
        " some class has fewer than 6 songs",
    )
    focal_gamma: NonNegative = Field(2.0, description="focusing parameter of loss: focal")
    class_balanced_beta: OpenFraction = Field(0.999, description="beta of loss: class_balanced")
    logit_adjustment: NonNegative = Field(1.0, description="tau of loss: logit_adjusted")
    huber_delta: Positive = Field(
        1.0, description="delta of loss: huber and loss: zero_inflated, in units of the transformed target"
    )
    target_transform: TargetTransform = Field("standardize", description="regression: transform of the target")
    asymmetric_gamma_positive: NonNegative = Field(0.0, description="positive gamma of loss: asymmetric")
    asymmetric_gamma_negative: NonNegative = Field(4.0, description="negative gamma of loss: asymmetric")
    asymmetric_margin: Probability = Field(0.05, description="probability margin of loss: asymmetric")
    tmse_weight: NonNegative = Field(
        0.15,
        description="segments: weight of the truncated-MSE smoothing loss between neighboring segments; 0: off",
    )
    tmse_clip: Positive = Field(
        4.0, description="maximum difference of log-probabilities that the truncated-MSE loss counts"
    )
    boundary_loss_weight: NonNegative = Field(
        0.1,
        description="segments: weight of the loss on whether two neighboring segments have different labels; 0: off",
    )
    label_smoothing: Probability = Field(0.0, description="amount of label smoothing")
    sampling: Sampling = Field("none", description="balance classes by repeating or leaving out songs in each epoch")
    metric: str | None = Field(
        None,
        description="main metric, for early stopping, tuning and reports; null: macro_f1, of regression mae",
    )
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    workers: PositiveInt | str | None = Field(
        None,
        description="number of workers that share one fit, or a range such as 1..4 (elastic); null: one per GPU, 1 on"
        " the CPU",
    )
    fits_per_gpu: PositiveInt | None = Field(
        None,
        description="number of folds or trials that share a GPU; null: as many, up to 4, as a few measured steps of one"
        " allow",
    )
    ensemble: bool = Field(
        False,
        description="keep the models of all folds and average their scores, instead of one model trained on all songs",
    )
    combine: Combine = Field(
        "auto",
        description="stack: combine the neural network with the baselines by weights from out-of-fold scores; none:"
        " keep the neural network alone; auto: stack with several folds and at least 30 songs",
    )
    feature_cache_mb: NonNegativeInt = Field(
        8192, description="maximum size in MB of the disk cache for features of frozen layers; 0: no cache"
    )
    device: Device = Field("auto", description="device of the model; auto: the first one available of cuda, mps, cpu")
    mixed_precision: bool | Precision = Field(
        "auto",
        description="auto: bf16 where the device supports it natively, otherwise fp16 on a GPU; on a CPU, bf16 also"
        " where layers of an encoder are trained and a short measurement shows that it is faster; otherwise off",
    )
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="on a GPU, compile the trained layers of the text encoder with torch.compile; auto: in fits with"
        " more than 10 minutes left after 40 steps",
    )
    save_every_n_epochs: PositiveInt | None = Field(
        None, description="number of epochs between checkpoints; null: see checkpoint_seconds"
    )
    checkpoint_seconds: NonNegative = Field(
        60.0, description="seconds between checkpoints, which are also written within an epoch"
    )

    @property
    def headline(self) -> str:
        """The main metric of a resolved config."""
        assert self.metric is not None, "resolve_defaults sets it"
        return self.metric


class SegmentsConfig(Section):
    """Segments of songs: their table, the sequences that are read together, and decoding."""

    renamed: ClassVar[Names] = {
        "together": "max_sequence_length",
        "bag": "mil_pooling",
        "compare_none": "no_context_baseline",
    }

    path: str | None = Field(
        None,
        description="parquet file with one row per segment and stem; null: segments are derived from the manifest",
    )
    seconds: Positive = Field(
        10.0, description="length in seconds of derived segments, for songs with neither a structure nor an LRC file"
    )
    max_sequence_length: PositiveInt = Field(
        256, description="maximum number of segments read together; longer songs are read in overlapping sequences"
    )
    overlap: Annotated[float, Field(ge=0.05, le=0.5)] = Field(
        0.25, description="overlap of successive sequences, as a fraction of max_sequence_length"
    )
    decoding: Decoding = Field("argmax", description="how scores of segments become labels")
    filter_width: PositiveInt = Field(3, description="width in segments of the filter of decoding: median")
    mil_pooling: MilPooling = Field(
        "attention",
        description="multiple-instance pooling: how scores of segments become the song's score, if only songs have"
        " labels",
    )
    no_context_baseline: bool = Field(
        True,
        description="also train the model without temporal context, as a baseline; this doubles the training time",
    )


class CalibrationConfig(Section):
    """Calibration of scores, and the threshold of predictions."""

    method: CalibrationMethod = Field("none", description="calibration of scores, fitted on out-of-fold scores")
    threshold: ThresholdRule = Field(
        "fixed",
        description="how the threshold of the positive class is chosen: fixed is 0.5; f1 maximizes F1;"
        " recall_at_precision maximizes recall at the given precision; cost minimizes the expected cost",
    )
    precision: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.9, description="minimum precision of threshold: recall_at_precision"
    )
    cost_false_positive: Positive = Field(1.0, description="cost of a false positive, for threshold: cost")
    cost_false_negative: Positive = Field(1.0, description="cost of a false negative, for threshold: cost")
