"""Files of tensors of a bundle, read without unpickling, and checks of what they contain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from rainbow_ray.bundle.novelty import Novelty
from rainbow_ray.modalities.text.encoder import TextEncoder
from rainbow_ray.modalities.text.modality import SPEC as TEXT
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.model.state_dict_upgrade import upgrade_state_keys
from rainbow_ray.stacking.files import STACK
from rainbow_ray.stacking.linear_member import hidden_states_key
from rainbow_ray.stacking.stack import Stack
from rainbow_ray.utils.errors import first_line
from rainbow_ray.utils.io import PICKLE_HEADERS

NOVELTY = "novelty.safetensors"


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read a file of tensors.

    Args:
        file: The file.

    Returns:
        Tensors by their present names.

    Raises:
        ValueError: The file is a pickle.
        SafetensorError: The file is damaged.
    """
    try:
        with safe_open(file, "pt"):  # checks the header before memory is allocated
            pass
    except SafetensorError as error:
        # only now: the header of a safetensors file starts with its length, which may have the bytes of a pickle
        with file.open("rb") as stream:
            is_pickle = stream.read(2) in PICKLE_HEADERS
        if is_pickle:
            raise ValueError(f"{file.name} is a pickle, not safetensors: it is not opened") from error
        raise
    return upgrade_state_keys(load_file(file))


def read_novelty(file: Path) -> Novelty:
    """Read the songs with which new ones are compared.

    Args:
        file: The file.

    Returns:
        The songs.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        return Novelty.from_arrays({name: values.numpy() for name, values in read_tensors(file).items()})
    except (ValueError, TypeError, SafetensorError) as error:
        raise ValueError(f"{file.name}: {first_line(error)}") from error


def check_feature_keys(
    model: RainbowModel, stacks: Sequence[Stack], novelty: Novelty | None, frozen_encoder: TextEncoder | None
) -> None:
    """Check that linear models and novelty read features that the encoders give.

    Args:
        model: The neural network.
        stacks: The stack of each fit.
        novelty: Songs with which new ones are compared, or None.
        frozen_encoder: The frozen text encoder, or None.

    Raises:
        ValueError: A key or a width is none of the encoders'.
    """
    widths = {key: width for name in model.modalities for key, width in model.encoder_widths(name).items()}
    widths.pop(TEXT.name, None)
    if frozen_encoder is not None:
        widths |= {hidden_states_key(layer): frozen_encoder.width for layer in range(frozen_encoder.depth + 1)}
    read = {(member.key, member.input_width) for stack in stacks for member in stack.members if member.key}
    if novelty is not None:
        read |= {(key, len(center)) for key, center in novelty.centers.items()}
    for key, width in read:
        if widths.get(str(key)) != width:
            raise ValueError(f"{STACK} or {NOVELTY}: {width} features {key!r}, which the encoders do not give")
