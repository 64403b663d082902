"""AdamW with a learning rate for each depth, and how the rates rise and fall."""

from __future__ import annotations

from typing import Any

import torch

from rainbow_ray.config.schema import Config
from rainbow_ray.modalities.spec import get_modality
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.utils.errors import InputError

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}  # ours to transformers'
NO_DECAY_BELOW = 2  # dimensions: biases and norms are not decayed


def make_optimizer(model: RainbowModel, config: Config, device: torch.device) -> torch.optim.AdamW:
    """AdamW with an encoder's learning rate falling by `layer_decay` a layer, and no decay on biases and norms.

    What came trained learns at `learning_rate`, what is new at `head_learning_rate`, unless its section says otherwise.
    """
    training = config.training
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}

    def add(parameter: torch.nn.Parameter, rate: float, decay: float) -> None:
        decay = decay if parameter.ndim >= NO_DECAY_BELOW else 0.0
        groups.setdefault((rate, decay), []).append(parameter)

    seen: set[int] = set()
    rates = {name: get_modality(name).learning_rate(config.model) for name in model.modalities}
    for name, own in rates.items():
        encoder = model.encoder_of(name)
        for depth, parameter in encoder.parameters_by_depth() if hasattr(encoder, "parameters_by_depth") else ():
            fall = training.layer_decay ** (getattr(encoder, "depth", 0) - depth)
            add(parameter, (own or training.learning_rate) * fall, training.weight_decay)
            seen.add(id(parameter))
    from_scratch = {
        **rates,
        "fusion": config.model.fusion.learning_rate,
        "temporal": config.model.temporal.learning_rate,
    }
    for tower, parameters in model.parameters_by_component().items():
        for parameter in parameters:
            if id(parameter) in seen:
                continue
            own = from_scratch.get(tower)
            decay = training.weight_decay if tower in from_scratch else training.head_weight_decay
            if tower == "temporal":
                decay = config.model.temporal.weight_decay
            add(parameter, own or training.head_learning_rate, decay)
    described = [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]
    if not described:
        raise InputError("nothing is left to train: every part of the model is frozen")
    return torch.optim.AdamW(described, fused=device.type in ("cuda", "cpu", "mps"))


def make_schedule(optimizer: torch.optim.Optimizer, config: Config, warmup_steps: int, steps: int) -> Any:
    """A linear warm-up, then what `training.schedule` says, over `steps` in all."""
    from transformers import get_scheduler

    return get_scheduler(SCHEDULES[config.training.schedule], optimizer, warmup_steps, steps)
