"""Phases: predefined combinations of a task, a target, modalities and examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rainbow_ray.utils.errors import InputError


@dataclass(frozen=True)
class Phase:
    """Defaults that a number selects.

    Attributes:
        number: Number of the phase, value of the key `phase`.
        task: Name of the task.
        target: Column with the labels.
        modalities: Modalities that are read.
        example_level: What one example is.
        any_task: Whether `data.target_type` can select another task.
    """

    number: int
    task: str
    target: str
    modalities: tuple[str, ...]
    example_level: Literal["song", "stem", "segment"] = "song"
    any_task: bool = False

    @property
    def has_segments(self) -> bool:
        """Whether examples are segments of songs."""
        return self.example_level == "segment"


PHASES = {
    phase.number: phase
    for phase in (
        Phase(1, "binary", "has_rebracketing_markers", ("text",)),
        Phase(2, "multiclass", "rebracketing_type", ("text",)),
        Phase(3, "multiclass", "rebracketing_type", ("text", "audio", "midi"), "stem", any_task=True),
        Phase(4, "regression", "rebracketing_intensity", ("text",)),
        Phase(5, "segmentation", "segment_rebracketing_type", ("text",), "segment"),
    )
}


def get_phase(number: int) -> Phase:
    """Return a phase.

    Args:
        number: Number of the phase.

    Returns:
        The phase.

    Raises:
        InputError: There is no phase of this number.
    """
    if number not in PHASES:
        phases = ", ".join(f"{phase.number} ({phase.task})" for phase in PHASES.values())
        raise InputError(f"--phase {number}: this version has no such phase; it has: {phases}")
    return PHASES[number]
