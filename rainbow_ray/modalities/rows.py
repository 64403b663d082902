"""Operations on rows and batches that take all modalities of a model together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rainbow_ray.modalities.encoder_types import PretrainedEncoder
from rainbow_ray.modalities.spec import InputSpec, get_modality
from rainbow_ray.modalities.windows import DrawView, FindWindow

if TYPE_CHECKING:
    import pyarrow as pa

    from rainbow_ray.data.batch import Collate


def load_encoders(input_spec: InputSpec) -> dict[str, PretrainedEncoder]:
    """Return the pretrained encoders of a model.

    Args:
        input_spec: The inputs of the model.

    Returns:
        Encoders by the name of their modality; each call clones them.

    Raises:
        InputError: One cannot be loaded.
    """
    encoders = {spec.name: spec.load_encoder(input_spec) for spec in input_spec.specs}
    return {name: encoder for name, encoder in encoders.items() if encoder is not None}


def modalities_present(rows: pa.Table, modalities: Sequence[str]) -> list[str]:
    """Return which modalities each prepared row has.

    Args:
        rows: Prepared rows.
        modalities: Names of modalities.

    Returns:
        For each row the names that it has, joined by `+` in the order given (`text+midi`); empty for none.
    """
    present = {name: get_modality(name).is_present(rows).to_pylist() for name in modalities}
    return ["+".join(name for name in modalities if present[name][i]) for i in range(len(rows))]


def cached_windows(rows: pa.Table, input_spec: InputSpec) -> dict[str, list[str]]:
    """Return the windows whose frozen features are cached.

    Args:
        rows: Prepared rows.
        input_spec: The inputs of the model.

    Returns:
        Keys of windows by modality.
    """
    return {name: [key for keys in rows[name].to_pylist() for key in keys] for name in input_spec.cached}


def lengths(rows: pa.Table, input_spec: InputSpec) -> np.ndarray:
    """Return the approximate cost of rows in tokens of text.

    Args:
        rows: Prepared rows.
        input_spec: The inputs of the model.

    Returns:
        `(rows,)` int32.
    """
    # a row may have no window at all, but its cost is never zero
    total = np.full(len(rows), all(spec.is_windowed for spec in input_spec.specs), dtype=np.int32)
    for spec in input_spec.specs:
        total = total + spec.lengths(rows)
    return np.asarray(total)


def prepare(rows: pa.Table, *, input_spec: InputSpec) -> pa.Table:
    """Return plain rows with the columns that each modality's `collate` reads.

    Args:
        rows: Plain rows.
        input_spec: The inputs of the model.

    Returns:
        The prepared rows.
    """
    for spec in input_spec.specs:
        rows = spec.prepare(rows, input_spec)
    return rows if input_spec.media_reader is None else input_spec.media_reader(rows)


def make_collates(
    input_spec: InputSpec, find: FindWindow | None = None, draw: DrawView | None = None
) -> dict[str, Collate]:
    """Return each modality's collate function, as `data.batch.make_batch` takes them.

    Args:
        input_spec: The inputs of the model.
        find: Returns the array of a window; required for windowed modalities.
        draw: Returns the seed that draws one window per stem in training; None reads all windows.

    Returns:
        Functions by modality.
    """
    return {
        spec.name: functools.partial(spec.collate, input_spec=input_spec, find=find, draw=draw)
        for spec in input_spec.specs
    }
