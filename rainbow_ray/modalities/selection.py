"""Questions about the modalities of a model, which the rest of the package asks in place of comparing names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rainbow_ray.modalities.spec import TEXT_ONLY, get_modality

if TYPE_CHECKING:
    from rainbow_ray.config.schema import DataConfig, ModelConfig
    from rainbow_ray.data.columns import ColumnRequest


def column_requests(modalities: Sequence[str], config: DataConfig) -> list[ColumnRequest]:
    """Return which columns of a manifest the modalities besides text read.

    Args:
        modalities: Names of modalities.
        config: The section `data`.

    Returns:
        A request per modality.
    """
    requests = [get_modality(name).column(config) for name in modalities]
    return [request for request in requests if request is not None]


def reads_text(modalities: Sequence[str]) -> bool:
    """Return whether one of some modalities is text.

    Args:
        modalities: Names of modalities.

    Returns:
        Whether the text columns are read.
    """
    return any(get_modality(name).reads_text for name in modalities)


def reads_only_text(modalities: Sequence[str]) -> bool:
    """Return whether some modalities are text alone. It needs no heavy import, so that ONNX models load fast.

    Args:
        modalities: Names of modalities.

    Returns:
        Whether there is no other modality.
    """
    return tuple(modalities) == TEXT_ONLY


def besides_text(modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the modalities that are not text.

    Args:
        modalities: Names of modalities.

    Returns:
        Their names, in the same order.
    """
    return tuple(name for name in modalities if not get_modality(name).reads_text)


def windowed(modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the modalities that are read as windows of files.

    Args:
        modalities: Names of modalities.

    Returns:
        Their names, in the same order.
    """
    return tuple(name for name in modalities if get_modality(name).is_windowed)


def described_modalities(modalities: Sequence[str], config: ModelConfig) -> tuple[str, ...]:
    """Return the modalities whose descriptors a model reads.

    Args:
        modalities: Names of modalities.
        config: The section `model`.

    Returns:
        Their names, in the same order.
    """
    return tuple(name for name in modalities if get_modality(name).descriptor_width(config))


def missing_packages(modalities: Sequence[str], config: ModelConfig) -> list[str]:
    """Return a message for each modality whose descriptors a model reads, but which cannot be computed here.

    Args:
        modalities: Names of modalities.
        config: The section `model`.

    Returns:
        Messages with what to install.
    """
    specs = [get_modality(name) for name in described_modalities(modalities, config)]
    return [
        f"{spec.descriptors_setting}: a package that it needs is not installed: pip install 'rainbow-ray[descriptors]'"
        for spec in specs
        if not spec.can_describe()
    ]
