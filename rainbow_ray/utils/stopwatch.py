"""Wall-clock time of the parts of a command."""

from __future__ import annotations

import time
from typing import Any

STARTUP_PARTS = ("imports and checks", "ray", "data")  # what passes before the first fit can start


class Stopwatch:
    """Seconds of each part of a command, for `summary.json`.

    Args:
        started: Time at which the command started, from `time.perf_counter()`.
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
