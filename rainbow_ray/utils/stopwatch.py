"""Wall-clock time of the parts of a command."""

from __future__ import annotations

import time
from typing import Any

import psutil

STARTUP_PARTS = ("imports and checks", "ray", "data")  # parts of a command before its first fit


def process_start_time() -> float:
    """Return when this process started, so that the time of a command includes the start of Python and its imports.

    The time of a shell that replaced itself by this process (`exec python …`) counts as well.

    Returns:
        Seconds on the clock of `time.perf_counter()`.
    """
    age = max(0.0, time.time() - psutil.Process().create_time())
    return time.perf_counter() - age


class Stopwatch:
    """Seconds of each part of a command, for `summary.json`.

    Args:
        started: Time at which the command started, on the clock of `time.perf_counter()`.
    """

    def __init__(self, started: float) -> None:
        self.started = self.last = started
        self.parts: dict[str, float] = {}

    def mark(self, part: str) -> None:
        """Add the time since the last mark to a part.

        Args:
            part: Name of the part that ends now.
        """
        now = time.perf_counter()
        self.parts[part] = round(self.parts.get(part, 0.0) + now - self.last, 3)
        self.last = now

    def seconds(self) -> dict[str, Any]:
        """Return the seconds until now.

        Returns:
            `total`; `startup`, the sum of the parts before the first fit; and `parts`, by name.
        """
        startup = round(sum(self.parts.get(part, 0.0) for part in STARTUP_PARTS), 2)
        return {"total": round(time.perf_counter() - self.started, 2), "startup": startup, "parts": self.parts}
