"""The frozen text encoder of a bundle, whose hidden states the linear models of a stacked ensemble read.

It shares its tensors with the model, as far as the model did not train them: only the others are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.modalities.text.encoder import TextEncoder, frozen_config
from rainbow_ray.modalities.text.modality import SPEC as TEXT

FROZEN = "frozen.safetensors"
MAX_LAYERS = 1000  # of an encoder; a config with more is damaged


def empty_encoder(folder: Path, make_body: Callable[[Any], Any] = TEXT.make_body) -> Any:
    """Return an encoder with the architecture of a config, and other weights.

    Args:
        folder: Folder with a config of transformers.
        make_body: Returns the model of a config.

    Returns:
        A model of transformers.

    Raises:
        ValueError: The config has too many layers.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    layers = getattr(config, "num_hidden_layers", 0)
    if not isinstance(layers, int) or layers > MAX_LAYERS:
        raise ValueError(f"{folder.name}/config.json: {layers!r} layers")
    return make_body(config)


def tensors_to_store(encoder: TextEncoder | None, model_encoder: TextEncoder | None) -> dict[str, torch.Tensor]:
    """Return the tensors of a frozen encoder that the model's encoder does not have.

    Args:
        encoder: The frozen encoder, or None.
        model_encoder: The text encoder of the model.

    Returns:
        Tensors by name.
    """
    if encoder is None:
        return {}
    own = {} if model_encoder is None else model_encoder.state_dict()
    return {
        name: tensor
        for name, tensor in encoder.state_dict().items()
        if name not in own or not torch.equal(own[name].cpu(), tensor.cpu())
    }


def build_frozen_encoder(
    config_folder: Path,
    config: TextEncoderConfig,
    depth: int,
    stored: dict[str, torch.Tensor],
    model_encoder: TextEncoder | None,
) -> TextEncoder:
    """Build the frozen encoder of a bundle around stored tensors and those of the model.

    Args:
        config_folder: Folder with the config of the encoder.
        config: Config section of the model's text encoder.
        depth: Number of layers to run.
        stored: What `tensors_to_store` returned.
        model_encoder: The text encoder of the model.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        ValueError: Tensors are missing or have other shapes.
    """
    with torch.device("meta"):
        expected = TextEncoder(empty_encoder(config_folder), frozen_config(config, depth)).state_dict()
    own = {} if model_encoder is None else model_encoder.state_dict()
    state = {**{name: own[name] for name in expected if name in own}, **stored}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise ValueError(f"{FROZEN}: tensors that do not fit the text encoder")
    encoder = TextEncoder(empty_encoder(config_folder), frozen_config(config, depth))
    encoder.load_state_dict(state, assign=True)
    if model_encoder is not None:
        _share_parameters(encoder, model_encoder, [name for name in state if name not in stored])
    return encoder.eval()


def _share_parameters(encoder: TextEncoder, other: TextEncoder, names: list[str]) -> None:
    """Replace parameters by those of another encoder, so that an exported graph contains them once."""
    parameters = dict(other.named_parameters())
    for name in names:
        if name in parameters:
            module, _, attribute = name.rpartition(".")
            setattr(encoder.get_submodule(module), attribute, parameters[name])
