"""`python -m cluster`, less patient: what it waits for between listings and tries is a test's."""

from __future__ import annotations

import dataclasses
import sys
import time

import cluster.lifecycle
import cluster.runpod_api
from cluster.__main__ import main

SHORTER = 0.02
SETTLE = 2.0  # longer than a listing lags behind in tests


def _shorten() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(cluster.lifecycle.Cluster)}
    poll = defaults["poll"] * SHORTER * 5
    start, client = cluster.lifecycle.Cluster.__init__, cluster.runpod_api.RunPod.__init__

    def quick_cluster(self, *arguments, **keys) -> None:
        start(self, *arguments, **{**keys, "poll": poll, "listing_delay": SETTLE})

    def quick_client(self, *arguments, **keys) -> None:
        client(self, *arguments, **{**keys, "pause": lambda seconds: time.sleep(seconds * SHORTER)})

    cluster.lifecycle.Cluster.__init__ = quick_cluster  # type: ignore[method-assign]
    cluster.runpod_api.RunPod.__init__ = quick_client  # type: ignore[method-assign]


if __name__ == "__main__":
    _shorten()
    sys.exit(main(sys.argv[1:]))
