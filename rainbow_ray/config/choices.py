"""Names that config keys accept, as `Literal` types.

`typing.get_args` gives the names of a type as a tuple. Names of tasks, metrics and modalities are not listed here: they
come from registries that can be extended, and `rainbow_ray.setup` checks them.
"""

from __future__ import annotations

from typing import Literal

ClassPolicy = Literal["drop", "other", "error"]
ExampleLevel = Literal["song", "stem"]
TableReader = Literal["auto", "ray", "driver"]
WindowPosition = Literal["start", "middle"]
AllWindows = Literal["all"]
MAX_WINDOWS = 64  # of a stem that is covered by windows

TextPooling = Literal["cls", "mean", "max", "attention"]
FusionKind = Literal["concat", "gated", "cross_attention"]
TemporalKind = Literal["transformer", "tcn", "none"]
WordWeighting = Literal["ratio", "presence"]
Activation = Literal["relu", "gelu", "tanh"]

Schedule = Literal["linear", "cosine", "constant"]
Solver = Literal["auto", "adamw", "lbfgs"]
Combine = Literal["auto", "stack", "none"]
Sampling = Literal["none", "oversample", "undersample"]
# losses of all tasks: each task refuses those that it does not have
Loss = Literal[
    "bce",
    "cross_entropy",
    "focal",
    "asymmetric",
    "class_balanced",
    "logit_adjusted",
    "auto",
    "huber",
    "mse",
    "mae",
    "zero_inflated",
]
TargetTransform = Literal["none", "standardize", "log1p"]
Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "bf16", "fp16", "off"]

Decoding = Literal["argmax", "median", "viterbi"]
MilPooling = Literal["attention", "noisy_or"]
CalibrationMethod = Literal["none", "temperature", "isotonic"]
ThresholdRule = Literal["fixed", "f1", "recall_at_precision", "cost"]
