"""Which layer of a pretrained encoder is read, and which of its parameters are frozen.

The text and the audio encoder share this logic: both are a list of transformer layers after an input stage (embeddings,
or convolutions and their projection), read after any layer and frozen up to any layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rainbow_ray.config.schema import AudioEncoderConfig, TextEncoderConfig


@dataclass(frozen=True)
class LayerDepths:
    """Layers of an encoder that are run, and that are frozen.

    Attributes:
        total: Number of layers of the pretrained encoder.
        read: Number of layers that are run; the output of the last one is read.
        frozen: Number of first layers that are frozen, at most `read`.
        freezes_input: Whether `freeze_layers` freezes anything, and so the input stage too.
        is_mixed: Whether a learned mix of all layers is read.
    """

    total: int
    read: int
    frozen: int
    freezes_input: bool
    is_mixed: bool

    @property
    def is_whole(self) -> bool:
        """Whether all layers of the pretrained encoder are run."""
        return self.read == self.total


def resolve_depths(config: TextEncoderConfig | AudioEncoderConfig, total: int) -> LayerDepths:
    """Return the depths that a config means for an encoder.

    Args:
        config: Section of the encoder; `check_depths` found no problem in it.
        total: Number of layers of the pretrained encoder.

    Returns:
        Numbers of layers.
    """
    is_mixed = config.layer == "mix"
    read = total if is_mixed else layer_number(config.layer, total)
    frozen = min(layer_number(config.freeze_layers, total), read)
    return LayerDepths(total, read, frozen, frozen > 0 or config.freeze_layers == "all", is_mixed)


def layer_number(value: int | float | str, total: int) -> int:
    """Return the number of layers that a config value means.

    Args:
        value: A number of layers, a fraction of them, or `last` or `all` for all of them.
        total: Number of layers of the encoder.

    Returns:
        A number of layers; a fraction is rounded.
    """
    if isinstance(value, str):
        return total
    return value if isinstance(value, int) else round(value * total)


def check_depths(config: TextEncoderConfig | AudioEncoderConfig, total: int, section: str) -> list[str]:
    """Return what is wrong with `layer` and `freeze_layers`.

    Args:
        config: Section of the encoder.
        total: Number of layers of the pretrained encoder.
        section: Config key of the section, for messages.

    Returns:
        A message per problem.
    """
    problems = []
    for key, value, words in (
        ("layer", config.layer, ("last", "mix")),
        ("freeze_layers", config.freeze_layers, ("all",)),
    ):
        setting = f"{section}.{key}: {value!r}"
        if isinstance(value, str) and value not in words:
            problems.append(f"{setting} is none of: {', '.join(words)}, a number of layers, a fraction such as 0.34")
        elif isinstance(value, int) and value > total:
            problems.append(f"{setting} is beyond the encoder, which has {total} layers; at most {total}")
    return problems


def freeze_parameters(
    encoder: nn.Module, layers: Sequence[nn.Module], n_frozen: int, *, freeze_input: bool,
    frozen_modules: Sequence[nn.Module] = (), trained_modules: Sequence[nn.Module] = (),
) -> None:  # fmt: skip
    """Freeze parameters of an encoder, and copy the tensors of those that are trained.

    The copy is needed because the tensors of a cached encoder may belong to other fits too.

    Args:
        encoder: The whole encoder.
        layers: Its layers.
        n_frozen: Number of first layers to freeze.
        freeze_input: Whether to freeze parameters outside of the layers.
        frozen_modules: Modules outside of the layers that are frozen whatever `freeze_input`.
        trained_modules: Modules outside of the layers that are trained whatever `freeze_input`.
    """
    in_layers = _parameter_ids(layers)
    frozen = _parameter_ids([*layers[:n_frozen], *frozen_modules])
    trained = _parameter_ids(trained_modules)
    for parameter in encoder.parameters():
        is_input = id(parameter) not in in_layers and id(parameter) not in trained
        is_frozen = id(parameter) in frozen or (is_input and freeze_input)
        parameter.requires_grad_(not is_frozen)
        if not is_frozen:
            parameter.data = parameter.data.clone()


def trained_by_depth(encoder: nn.Module, layers: Sequence[nn.Module]) -> Iterator[tuple[int, nn.Parameter]]:
    """Yield the trained parameters of an encoder with their depth.

    Args:
        encoder: The whole encoder.
        layers: Its layers.

    Yields:
        `(depth, parameter)`: 0 for parameters outside of the layers, 1 for the first layer, and so on.
    """
    depth_of = {id(p): i + 1 for i, layer in enumerate(layers) for p in layer.parameters()}
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            yield depth_of.get(id(parameter), 0), parameter


def mix_layers(states: torch.Tensor, weights: torch.Tensor, scale: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the scalar mix of hidden states: their average under softmax weights, times a scale.

    Args:
        states: Hidden states with the layers, from the input stage on, in dimension `dim`.
        weights: Learned logits of the layers, `(layers + 1,)`.
        scale: Learned scale, `()`.
        dim: 1 for `(units, layers + 1, length, width)`, 2 for `(units, length, layers + 1, width)`.

    Returns:
        `(units, length, width)`.

    Reference:
        Peters et al. 2018, "Deep contextualized word representations" (ELMo), equation 1.
    """
    fractions = torch.softmax(weights, dim=0).to(states.dtype)
    return scale * torch.einsum("k,uklw->ulw" if dim == 1 else "k,ulkw->ulw", fractions, states)


def _parameter_ids(modules: Sequence[nn.Module]) -> set[int]:
    return {id(parameter) for module in modules for parameter in module.parameters()}
