"""Requests a second of `serve`: one at a time against many at once, through HTTP, with the 95th percentile.

    python -m tests.benchmarks.serving --model runs/one [--requests 200] [--at-once 16] [--repeats 3]

Each request is one text of its own, as long as concepts of real songs are (68 to 1,545 characters, median 262); the two
ways take turns, and medians are told.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.song_tables import WORDS

START_SECONDS = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = random.Random(0)
    texts = [make_text(rng) for _ in range(options.requests)]
    port = free_port()
    command = [sys.executable, "-m", "rainbow_ray.serve", str(options.model), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        ask_all(port, texts, options.at_once)  # warm
        rows = [(ask_all(port, texts, 1), ask_all(port, texts, options.at_once)) for _ in range(options.repeats)]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    alone, together = (
        {key: round(statistics.median(row[way][key] for row in rows), 2) for key in rows[0][way]} for way in (0, 1)
    )
    gain = statistics.median(many["per_second"] / one["per_second"] for one, many in rows)
    print(json.dumps({"one at a time": alone, f"{options.at_once} at once": together, "times": round(gain, 2)}))


def make_text(rng: random.Random) -> str:
    """Lengths spread around their median as those of the real table are."""
    characters = min(1545, max(68, int(rng.lognormvariate(math.log(262), 0.5))))
    return " ".join(rng.choices(WORDS, k=characters))[:characters]


def ask_all(port: int, texts: list[str], at_once: int) -> dict[str, float]:
    """Requests a second, the 95th percentile in milliseconds, and how many were not answered with 200."""
    share = [texts[i::at_once] for i in range(at_once)]
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        told = [one for some in pool.map(lambda part: _ask(port, part), share) for one in some]
    seconds = time.perf_counter() - began
    times = sorted(took for took, _ in told)
    return {
        "per_second": len(told) / seconds,
        "p95_ms": 1000 * times[int(0.95 * len(times))],
        "errors": sum(status != 200 for _, status in told),
    }


def _ask(port: int, texts: list[str]) -> list[tuple[float, int]]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    told = []
    for text in texts:
        began = time.perf_counter()
        body = json.dumps({"texts": [text]})
        connection.request("POST", "/predict", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        told.append((time.perf_counter() - began, answer.status))
    connection.close()
    return told


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Until the service answers that it is there."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit("the service did not answer")


if __name__ == "__main__":
    main()
