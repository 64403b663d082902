"""The phases: each a problem over some modalities, with one unit as its example. Names only; owners check them."""

from __future__ import annotations

from dataclasses import dataclass

from rainbow_ray.utils.errors import InputError


@dataclass(frozen=True)
class Phase:
    number: int
    task: str
    target: str
    modalities: tuple[str, ...]
    unit: str


PHASES = {
    phase.number: phase
    for phase in (
        Phase(1, task="binary", target="has_rebracketing_markers", modalities=("text",), unit="song"),
        Phase(2, task="multiclass", target="rebracketing_type", modalities=("text",), unit="song"),
        Phase(3, task="multiclass", target="rebracketing_type", modalities=("text", "audio", "midi"), unit="stem"),
        Phase(4, task="regression", target="rebracketing_intensity", modalities=("text",), unit="song"),
        Phase(5, task="segmentation", target="segment_rebracketing_type", modalities=("text",), unit="segment"),
    )
}


def get_phase(number: int) -> Phase:
    """The phase of that number. Raises `InputError` for one that this version does not have."""
    if number not in PHASES:
        known = ", ".join(f"{phase.number} ({phase.task})" for phase in PHASES.values())
        raise InputError(f"--phase {number}: this version has no such phase; it has: {known}")
    return PHASES[number]
