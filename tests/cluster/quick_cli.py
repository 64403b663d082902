"""`python -m cluster` with shorter pauses between listings and retries."""

from __future__ import annotations

import dataclasses
import sys
import time

import cluster.lifecycle
import cluster.runpod_api
from cluster.__main__ import main

PAUSE_FACTOR = 0.02
LISTING_DELAY_SECONDS = 2.0  # longer than the delay of listings in tests


def _shorten_pauses() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(cluster.lifecycle.Cluster)}
    poll = defaults["poll"] * PAUSE_FACTOR * 5
    init_cluster, init_client = cluster.lifecycle.Cluster.__init__, cluster.runpod_api.RunPod.__init__

    def quick_cluster(self, *arguments, **options) -> None:
        init_cluster(self, *arguments, **{**options, "poll": poll, "listing_delay": LISTING_DELAY_SECONDS})

    def quick_client(self, *arguments, **options) -> None:
        init_client(self, *arguments, **{**options, "pause": lambda seconds: time.sleep(seconds * PAUSE_FACTOR)})

    cluster.lifecycle.Cluster.__init__ = quick_cluster  # type: ignore[method-assign]
    cluster.runpod_api.RunPod.__init__ = quick_client  # type: ignore[method-assign]


if __name__ == "__main__":
    _shorten_pauses()
    sys.exit(main(sys.argv[1:]))
