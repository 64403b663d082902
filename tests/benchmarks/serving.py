"""Requests per second of `serve` over HTTP, sequential and concurrent, with the 95th percentile of latency.

    python -m tests.benchmarks.serving --model runs/one [--requests 200] [--at-once 16] [--repeats 3]

Each request has a different text, of the lengths of concepts of real songs (68 to 1,545 characters, median 262). The
two measurements alternate, and medians are printed.
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
        send_all(port, texts, options.at_once)  # warm-up
        rows = [(send_all(port, texts, 1), send_all(port, texts, options.at_once)) for _ in range(options.repeats)]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    sequential, concurrent = (
        {key: round(statistics.median(row[column][key] for row in rows), 2) for key in rows[0][column]}
        for column in (0, 1)
    )
    gain = statistics.median(
        concurrent_row["per_second"] / sequential_row["per_second"] for sequential_row, concurrent_row in rows
    )
    print(json.dumps({"one at a time": sequential, f"{options.at_once} at once": concurrent, "times": round(gain, 2)}))


def make_text(rng: random.Random) -> str:
    """Return a text whose length is distributed as in the real table."""
    characters = min(1545, max(68, int(rng.lognormvariate(math.log(262), 0.5))))
    return " ".join(rng.choices(WORDS, k=characters))[:characters]


def send_all(port: int, texts: list[str], at_once: int) -> dict[str, float]:
    """Return requests per second, the 95th percentile in milliseconds, and the number of answers other than 200."""
    shares = [texts[i::at_once] for i in range(at_once)]
    start_time = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        responses = [
            response
            for worker_responses in pool.map(lambda worker_texts: _send(port, worker_texts), shares)
            for response in worker_responses
        ]
    seconds = time.perf_counter() - start_time
    times = sorted(seconds_of_request for seconds_of_request, _ in responses)
    return {
        "per_second": len(responses) / seconds,
        "p95_ms": 1000 * times[int(0.95 * len(times))],
        "errors": sum(status != 200 for _, status in responses),
    }


def _send(port: int, texts: list[str]) -> list[tuple[float, int]]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    responses = []
    for text in texts:
        start_time = time.perf_counter()
        body = json.dumps({"texts": [text]})
        connection.request("POST", "/predict", body, {"content-type": "application/json"})
        response = connection.getresponse()
        response.read()
        responses.append((time.perf_counter() - start_time, response.status))
    connection.close()
    return responses


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until the service answers its health check."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
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
