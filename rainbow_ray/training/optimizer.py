"""AdamW with layer-wise learning-rate decay, and the learning-rate schedule.

Reference:
    Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2 (AdamW); Howard & Ruder 2018,
    "Universal Language Model Fine-tuning for Text Classification", section 3.2 (discriminative fine-tuning), with one
    decay factor per layer as in Clark et al. 2020, "ELECTRA", appendix B.
"""

from __future__ import annotations

from typing import Any

import torch

from rainbow_ray.config.schema import Config
from rainbow_ray.modalities.spec import get_modality
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.utils.errors import InputError

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}  # names in transformers
MIN_DECAYED_DIMENSIONS = 2  # biases and norms, which have fewer dimensions, are not decayed


def make_optimizer(
    model: RainbowModel, config: Config, device: torch.device, *, rate_factor: float = 1.0
) -> torch.optim.AdamW:
    """Return the optimizer of a model.

    Pretrained layers learn at `training.learning_rate`, which decays by `training.layer_decay` with each layer below
    the one that is read; new modules learn at `training.head_learning_rate`. A module's section of the config may set
    its own rate. Biases and norms have no weight decay.

    Args:
        model: The model, whose frozen parameters are left out.
        config: Sections `training` and `model`.
        device: Device of the model.
        rate_factor: Factor of all learning rates.

    Returns:
        AdamW with one parameter group per learning rate and weight decay.

    Raises:
        InputError: Every parameter of the model is frozen.
    """
    training = config.training
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}

    def add(parameter: torch.nn.Parameter, rate: float, decay: float) -> None:
        decay = decay if parameter.ndim >= MIN_DECAYED_DIMENSIONS else 0.0
        groups.setdefault((rate, decay), []).append(parameter)

    pretrained: set[int] = set()
    encoder_rates = {name: get_modality(name).learning_rate(config.model) for name in model.modalities}
    for name, rate in encoder_rates.items():
        encoder = model.encoder_of(name)
        for depth, parameter in encoder.parameters_by_depth() if hasattr(encoder, "parameters_by_depth") else ():
            layer_factor = training.layer_decay ** (getattr(encoder, "depth", 0) - depth)
            add(parameter, (rate or training.learning_rate) * layer_factor, training.weight_decay)
            pretrained.add(id(parameter))
    rates = {
        **encoder_rates,
        "fusion": config.model.fusion.learning_rate,
        "temporal": config.model.temporal.learning_rate,
    }
    decays = {**dict.fromkeys(rates, training.weight_decay), "temporal": config.model.temporal.weight_decay}
    for component, parameters in model.parameters_by_component().items():
        decay = decays.get(component, training.head_weight_decay)
        for parameter in parameters:
            if id(parameter) not in pretrained:
                add(parameter, rates.get(component) or training.head_learning_rate, decay)
    if not groups:
        raise InputError("nothing is left to train: every part of the model is frozen")
    return torch.optim.AdamW(
        [
            {"params": params, "lr": rate * rate_factor, "weight_decay": decay}
            for (rate, decay), params in groups.items()
        ],
        fused=device.type in ("cuda", "cpu", "mps"),
    )


def make_schedule(optimizer: torch.optim.Optimizer, config: Config, warmup_steps: int, steps: int) -> Any:
    """Return the learning-rate schedule: a linear warm-up, then the decay that `training.schedule` names.

    Args:
        optimizer: The optimizer whose rates are scaled.
        config: Names the schedule.
        warmup_steps: Number of steps of the warm-up.
        steps: Number of steps in all.

    Returns:
        A `LambdaLR` of torch, to be stepped once per optimizer step.
    """
    from transformers import get_scheduler

    return get_scheduler(SCHEDULES[config.training.schedule], optimizer, warmup_steps, steps)
