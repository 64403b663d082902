"""Deployment on Ray Serve: a proxy on one address, and replicas that score concurrent requests as batches."""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Any

from ray import serve
from ray.serve.config import HTTPOptions

from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.serving.app import make_app
from rainbow_ray.serving.auth import AccessPolicy
from rainbow_ray.serving.service import ServedPrediction, Service

NAME = "rainbow_ray"
MAX_BATCH_TEXTS = 64
BATCH_WAIT_SECONDS = 0.002  # for which the first text of a batch waits for others
MAX_QUEUED_REQUESTS = 256  # beyond those that replicas process; further ones are answered with status 503


class Replica(Service):
    """A service that scores texts of concurrent requests as one batch."""

    @serve.batch(max_batch_size=MAX_BATCH_TEXTS, batch_wait_timeout_s=BATCH_WAIT_SECONDS)  # type: ignore[untyped-decorator]
    async def _predict(self, texts: list[str]) -> list[ServedPrediction]:
        return await asyncio.to_thread(self._predict_batch, texts)


def start(options: argparse.Namespace, policy: AccessPolicy, cluster: RayResources) -> None:
    """Start the proxy and the replicas, and wait until they are ready.

    Args:
        options: Arguments of `serve`.
        policy: Who may use the service.
        cluster: Resources that the replicas share.
    """
    n_replicas, resources = cluster.allocate_fits(options.replicas)
    n_threads = max(1, int(resources["num_cpus"]))

    def build() -> Any:
        return make_app(lambda: serve.get_replica_context().servable_object, policy)

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=options.host, port=options.port, request_timeout_s=options.timeout),
        logging_config={"enable_access_log": False},
    )
    deployment = serve.deployment(
        name=NAME, num_replicas=n_replicas, ray_actor_options=resources, max_ongoing_requests=2 * MAX_BATCH_TEXTS,
        max_queued_requests=MAX_QUEUED_REQUESTS,
    )(serve.ingress(build)(Replica))  # fmt: skip
    application = deployment.bind(str(options.model.resolve()), options.device, n_threads)
    serve.run(application, name=NAME, route_prefix="/")


def stop() -> None:
    """Stop the proxy and the replicas."""
    serve.shutdown()
