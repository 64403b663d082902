"""Cache of pretrained encoders: a process loads an encoder once, and all its fits share the tensors that are frozen.

The model of a fit is built around a `clone_encoder`: its own modules around the tensors of the cached encoder. Trained
tensors are copied (`freezing.freeze_parameters`); frozen ones are never written to. Processes of one machine may share
the tensors too, through Ray's object store.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from rainbow_ray.modalities.spec import get_modality

MAX_ENCODERS = 2  # that a process keeps: one of text, one of audio
_SHARED: dict[str, Mapping[str, np.ndarray]] = {}


def clone_encoder(name: str, modality: str = "text") -> Any:
    """Return an encoder with modules of its own around the tensors of the cached one.

    Args:
        name: Name of the encoder.
        modality: Name of its modality.

    Returns:
        A model of transformers, in eval mode. Whoever trains a parameter has to copy its tensor first.

    Raises:
        InputError: The encoder cannot be loaded.
    """
    encoder = _load(modality, name)
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=True) for p in encoder.parameters()}
    memo |= {id(b): b for b in encoder.buffers()}
    return copy.deepcopy(encoder, memo)


def export_weights(name: str) -> dict[str, np.ndarray]:
    """Return all tensors of a text encoder, for Ray's object store: one copy for all processes of a machine.

    Args:
        name: Name of the encoder.

    Returns:
        Arrays by the name of their parameter or buffer.
    """
    return {key: tensor.detach().numpy() for key, tensor in _tensors(_load("text", name)).items()}


def use_shared_weights(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Build the models of all later fits of this process around shared arrays.

    Args:
        name: Name of the text encoder.
        arrays: Its tensors, as `export_weights` returned them; the memory may be read-only.
    """
    if _SHARED.get(name) is not arrays:
        _SHARED.clear()
        _SHARED[name] = arrays
        _load.cache_clear()


def digest(name: str, tensors: Iterable[str], modality: str = "text") -> str:
    """Return a hash that identifies some tensors of an encoder.

    Args:
        name: Name of the encoder.
        tensors: Names of its parameters or buffers.
        modality: Name of its modality.

    Returns:
        16 hexadecimal digits.
    """
    combined = hashlib.sha256()
    for tensor in tensors:
        combined.update(tensor.encode())
        combined.update(_tensor_digest(modality, name, tensor))
    return combined.hexdigest()[:16]


@functools.lru_cache(maxsize=MAX_ENCODERS)
def _load(modality: str, name: str) -> Any:
    """Return an encoder in eval mode, around shared arrays where this process has them."""
    spec = get_modality(modality)
    if name not in _SHARED:
        return spec.load_pretrained(name).eval()
    from transformers import AutoModel

    with torch.device("meta"):
        encoder = AutoModel.from_config(spec.load_config(name), dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # frozen tensors are never written to
        for key, array in _SHARED[name].items():
            owner, _, attribute = key.rpartition(".")
            _set_tensor(encoder.get_submodule(owner), attribute, torch.from_numpy(array))
    return encoder.eval()


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers, also those that no state dict holds."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _set_tensor(module: nn.Module, attribute: str, tensor: torch.Tensor) -> None:
    if attribute in module._parameters:
        module._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[attribute] = tensor


@functools.cache
def _tensor_digest(modality: str, name: str, tensor: str) -> bytes:
    values = _tensors(_load(modality, name))[tensor].detach().contiguous()
    return hashlib.sha256(values.view(-1).view(torch.uint8).numpy().data).digest()
