"""The service on Ray Serve: a proxy on one address, replicas behind it that score together what arrives together."""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Any

import numpy as np
from ray import serve
from ray.serve.config import HTTPOptions

from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.serving.app import make_app
from rainbow_ray.serving.auth import Gate
from rainbow_ray.serving.service import Service

NAME = "rainbow_ray"
BATCH = 64  # texts that are scored together at most
WAIT_SECONDS = 0.002  # that the first of a batch waits for others
WAITING = 256  # requests beyond those being answered; more are told to come back (503)


class Replica(Service):
    """A service with a queue in front of its model."""

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_SECONDS)  # type: ignore[untyped-decorator]
    async def _score(self, texts: list[str]) -> list[np.ndarray]:
        return list(await asyncio.to_thread(self.predictor.score_texts, texts))


def start(options: argparse.Namespace, gate: Gate, cluster: RayResources) -> None:
    """Start proxy and replicas, and wait until they answer."""
    replicas, resources = cluster.allocate_fits(options.replicas)
    threads = max(1, int(resources["num_cpus"]))

    def build() -> Any:
        return make_app(lambda: serve.get_replica_context().servable_object, gate)

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=options.host, port=options.port, request_timeout_s=options.timeout),
        logging_config={"enable_access_log": False},
    )
    made = serve.deployment(
        name=NAME, num_replicas=replicas, ray_actor_options=resources, max_ongoing_requests=2 * BATCH,
        max_queued_requests=WAITING,
    )(serve.ingress(build)(Replica))  # fmt: skip
    serve.run(made.bind(str(options.model.resolve()), options.device, threads), name=NAME, route_prefix="/")


def stop() -> None:
    serve.shutdown()
