"""Put on PYTHONPATH by `make coverage`: what a process covered is kept also when it is killed, as Ray's workers are."""

from __future__ import annotations

import threading
import time

EVERY = 2.0  # seconds


def keep() -> None:
    from coverage import Coverage

    while True:
        time.sleep(EVERY)
        running = Coverage.current()
        if running is not None:
            running.save()


threading.Thread(target=keep, name="coverage", daemon=True).start()
