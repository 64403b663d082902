"""The request that creates a pod: name, marker, and a start command that starts the dead-man timer first."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import Any

from cluster.plan import Candidate
from cluster.settings import SSH_PORT
from cluster.state import MARKER, PodRecord, State

DEADMAN = Path(__file__).parent / "pod" / "deadman.sh"


def pod_request(state: State, record: PodRecord, candidate: Candidate, public_key: str) -> dict[str, Any]:
    """Return the body of `POST /v2/pods`. It holds neither the account's key nor any other secret.

    Args:
        state: State of the cluster.
        record: Record of the pod.
        candidate: GPU type and data center.
        public_key: Public ssh key of the cluster.

    Returns:
        The JSON object.

    Reference:
        https://docs.runpod.io/api-reference-v2
    """
    settings = state.settings
    variables = {
        "PUBLIC_KEY": public_key,
        MARKER: state.marker,
        "RRAY_ROLE": record.role,
        "RRAY_DEADLINE": f"{record.deadline:.0f}",
        "RRAY_GRACE": f"{settings.grace:.0f}",
        "RRAY_IDLE": f"{settings.idle:.0f}",
        "RRAY_WORKSPACE": settings.workspace,
        "RRAY_API_URL": state.api_url,
    }
    body: dict[str, Any] = {
        "name": record.name,
        "image": settings.image,
        "args": start_command(),
        "cloud": settings.cloud,
        "gpu": {"id": candidate.gpu, "count": settings.gpus_per_pod, "minCudaVersion": settings.min_cuda},
        "dataCenterIds": [candidate.data_center],
        "disk": settings.disk,
        "ports": [SSH_PORT],
        "env": {**settings.env, **variables},
        "startSsh": True,
        "globalNetworking": settings.pods > 1,
    }
    if state.volume is not None and state.volume.id is not None:
        body["mounts"] = {"network": [{"volumeId": state.volume.id, "path": settings.workspace}]}
    return body


def start_command() -> str:
    """Return the command of the container: the timer first, then the image's own start script.

    The script of the timer is embedded in the command, so that it runs on any image, before code is installed and after
    each restart.

    Returns:
        A shell command.
    """
    encoded = base64.b64encode(gzip.compress(DEADMAN.read_bytes(), mtime=0)).decode()
    script = (
        "mkdir -p ~/.rainbow && chmod 700 ~/.rainbow;"
        f" echo {encoded} | base64 -d | gunzip > ~/.rainbow/deadman.sh;"
        " bash ~/.rainbow/deadman.sh >> ~/.rainbow/deadman.log 2>&1 &"
        " exec ${RRAY_START:-/start.sh}"
    )
    return f"bash -c '{script}'"
