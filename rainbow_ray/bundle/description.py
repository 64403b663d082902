"""The description of a bundle, `bundle.json`: its version, its fields, and the reader of earlier versions.

Format 1 has no ensembles. Format 2 has other names of keys, which `read_description` replaces. Format 3
has no stacked ensembles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, NonNegativeInt, model_validator

from rainbow_ray.bundle.integrity import check_files
from rainbow_ray.modalities.spec import TEXT_ONLY, get_modality, modality_names
from rainbow_ray.utils.mappings import rename_keys

FORMAT = 4
READABLE_FORMATS = (1, 2, 3, FORMAT)
REQUIRED_KEYS = {"model", "task", "files", "text_columns", "max_tokens"}
# names of keys in formats 1 and 2
EARLIER_KEYS = {
    "problem": "task",
    "unit": "example_level",
    "audio_normalised": "audio_normalized",
    "max_bad_media": "max_unreadable_fraction",
}
EARLIER_SEGMENT_KEYS = {"together": "max_sequence_length"}
EARLIER_WINDOW_KEYS = {"views": "windows_per_stem"}
EARLIER_MEMBER_KEYS = {"problem": "task"}


class BundleDescription(BaseModel):
    """Types of the fields that are read before the model is built; the model checks its own.

    Attributes:
        max_tokens: Tokens of the longest text that the model reads; 0 for models that do not read text.
        text_columns: Columns of texts.
        modalities: Modalities that the model reads.
        id_column: Column of songs.
        media_columns: For each modality other than text, its column and its column of sample rates.
        times: Columns of start, end and, where there is one, index of segments.
        segments: Lengths of sequences of segments.
        windows: Length and position of windows of audio and MIDI.
        max_unreadable_fraction: Fraction of media files that may be unreadable.
        calibration: Calibration of the scores.
        members: Task, calibration and fold of each member of an ensemble.
        stacks: Number of stacked ensembles, one for each fit; 0 where scores are those of the neural network alone.
        frozen_layers: Layers of the frozen text encoder that linear models read; None without one.
    """

    max_tokens: NonNegativeInt
    text_columns: list[str]
    modalities: list[str] = Field(default=list(TEXT_ONLY), min_length=1)
    id_column: str = "id"
    media_columns: dict[str, tuple[str, str | None]] = {}
    times: tuple[str, str, str | None] | None = None
    segments: dict[str, float | int] = {}
    windows: dict[str, float | int | str] = {}
    max_unreadable_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    calibration: dict[str, Any] = {}
    members: list[dict[str, Any]] = []
    stacks: NonNegativeInt = 0
    frozen_layers: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _check_modalities(self) -> BundleDescription:
        for name in self.modalities:
            if name not in modality_names():
                raise ValueError(f"modalities: {name!r} is none of {', '.join(modality_names())}")
            for problem in get_modality(name).check_bundle(vars(self)):
                raise ValueError(problem)
        return self


def read_description(folder: Path) -> dict[str, Any]:
    """Read the description of a bundle of any version, after checking the files of the folder.

    Args:
        folder: Folder of a bundle.

    Returns:
        The description under the keys of the present format.

    Raises:
        ValueError: The description or a file is damaged.
        FileNotFoundError: The folder is no bundle.
    """
    document = check_files(folder, READABLE_FORMATS, REQUIRED_KEYS, EARLIER_KEYS)
    BundleDescription.model_validate(document)
    for name, renamed in (("segments", EARLIER_SEGMENT_KEYS), ("windows", EARLIER_WINDOW_KEYS)):
        if name in document:
            document[name] = rename_keys(document[name], renamed)
    document["format"] = FORMAT
    document["members"] = [rename_keys(member, EARLIER_MEMBER_KEYS) for member in document.get("members", [])]
    return document
