"""Encoders kept warm: a process reads one once, all its fits share what they do not train, and so may all processes.

A fit's model is built around `clone_encoder`: modules of its own around tensors that are the base's. What is trained
takes memory of its own (`TextEncoder` sees to that); what is frozen is never written to.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rainbow_ray.modalities.audio import encoder as audio_encoder
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.modalities.text import encoder as text_encoder

AUDIO = "audio:"  # before the name of an encoder that reads sound
WARM = 2  # encoders that a process keeps: one of text, one of sound
_ADOPTED: dict[str, Mapping[str, np.ndarray]] = {}


@dataclass(frozen=True)
class EncoderCache:
    """Encoders that came trained, by modality; audio has none where its net is our own."""

    text: Any = None
    audio: Any = None
    audio_weights: str = ""  # identifies the audio body's tensors
    audio_normalised: bool = True


def clone_encoder(name: str) -> Any:
    """Modules of one's own around the encoder's tensors."""
    body = _warm(name)
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=True) for p in body.parameters()}
    memo |= {id(b): b for b in body.buffers()}
    return copy.deepcopy(body, memo)


def encoders_of(reading: InputSpec) -> EncoderCache:
    """Fresh bodies of what is read."""
    text_body = clone_encoder(reading.text) if "text" in reading.modalities else None
    if reading.audio is None or reading.audio == audio_encoder.EMBEDDED:
        return EncoderCache(text_body)
    name = f"{AUDIO}{reading.audio}"
    body = clone_encoder(name)
    weights = digest(name, [key for key, _ in body.named_parameters()])
    return EncoderCache(text_body, body, weights, audio_encoder.wants_normalised(reading.audio))


def export_weights(name: str) -> dict[str, np.ndarray]:
    """All tensors of an encoder as arrays, for Ray's object store: one copy for all processes of a machine."""
    return {key: tensor.detach().numpy() for key, tensor in _tensors(_warm(name)).items()}


def use_shared_weights(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """In a worker: fits of this encoder are built around these arrays, which may be read-only memory."""
    if _ADOPTED.get(name) is not arrays:
        _ADOPTED.clear()
        _ADOPTED[name] = arrays
        _warm.cache_clear()


def digest(name: str, tensors: Iterable[str]) -> str:
    """Identifies some tensors of an encoder."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.encode())
        whole.update(_tensor_digest(name, tensor))
    return whole.hexdigest()[:16]


@functools.lru_cache(maxsize=WARM)
def _warm(name: str) -> Any:
    if name.startswith(AUDIO):
        return audio_encoder.load_body(name.removeprefix(AUDIO)).eval()
    if name not in _ADOPTED:
        return text_encoder.load_body(name)
    from transformers import AutoModel

    with torch.device("meta"):
        body = AutoModel.from_config(text_encoder.load_config(name), dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # nobody writes to what is frozen
        for key, array in _ADOPTED[name].items():
            owner, _, attribute = key.rpartition(".")
            _put(body.get_submodule(owner), attribute, torch.from_numpy(array))
    return body.eval()


def _tensors(body: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, also those that no state dict holds."""
    return {**dict(body.named_parameters()), **dict(body.named_buffers())}


def _put(module: nn.Module, attribute: str, tensor: torch.Tensor) -> None:
    if attribute in module._parameters:
        module._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[attribute] = tensor


@functools.cache
def _tensor_digest(name: str, tensor: str) -> bytes:
    values = _tensors(_warm(name))[tensor].detach().contiguous()
    return hashlib.sha256(values.view(-1).view(torch.uint8).numpy().data).digest()
