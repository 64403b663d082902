"""Client of RunPod's REST API v2, with one exception type per kind of error.

The specification is at https://docs.runpod.io/api-reference-v2. Decisions are made in `lifecycle`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from cluster.runpod_models import (
    ApiModel,
    DataCenter,
    DataCenterList,
    GpuType,
    GpuTypeList,
    Pod,
    PodList,
    Volume,
    VolumeList,
)

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "https://api.runpod.io"
TRIES = 5
LONGEST_PAUSE = 60.0  # seconds; a longer Retry-After is raised as an error


class ApiError(Exception):
    """An error of RunPod's API.

    Args:
        detail: Description by the API.
        status: HTTP status, or None without a response.
    """

    advice = "Try again; if the error persists, see https://uptime.runpod.io."

    def __init__(self, detail: str, status: int | None = None) -> None:
        self.detail, self.status = detail, status
        self.retry_after: float | None = None  # seconds, if the API sent it
        super().__init__(detail, status)

    @property
    def rejected(self) -> bool:
        """Whether the request certainly had no effect; after other errors (5xx, timeout, 408) this is unknown."""
        return self.status in ERRORS

    def __str__(self) -> str:
        detail = self.detail.strip().rstrip(".")
        return f"RunPod: {detail}{f' ({self.status})' if self.status else ''}. {self.advice}"


class Unauthorized(ApiError):
    """401: the key is missing, wrong or expired."""

    advice = "RUNPOD_API_KEY is missing, invalid or expired: create a key in the console under Settings, API Keys."


class NoBalance(ApiError):
    """402: the balance is too low."""

    advice = "The balance is too low: add credit in the console under Billing."


class Forbidden(ApiError):
    """403: the key lacks a permission."""

    advice = "The key lacks a permission: it needs read and write access to pods and network volumes."


class NotFound(ApiError):
    """404: no such pod or volume."""

    advice = "It does not exist or belongs to another account."


class Conflict(ApiError):
    """409: the state of the pod does not allow the request."""

    advice = "The state of the pod does not allow this; run `status` to show it."


class NoCapacity(ApiError):
    """400: no capacity for this GPU in this data center, or a violated rule; the API has one code for both."""

    advice = "Allow more GPU types or data centers (--gpu A,B --dc X,Y), or try again later."


class WrongRequest(ApiError):
    """422: the request is invalid."""

    advice = "The request is invalid and was not retried: check the values in cluster.yaml."


class RateLimited(ApiError):
    """429: too many requests."""

    advice = "Too many requests: try again in a minute."


class Unavailable(ApiError):
    """5xx, a timeout or no connection: whether a creation succeeded is unknown."""


ERRORS: Mapping[int, type[ApiError]] = {
    400: NoCapacity, 401: Unauthorized, 402: NoBalance, 403: Forbidden, 404: NotFound, 409: Conflict,
    422: WrongRequest, 429: RateLimited,
}  # fmt: skip


Kind = TypeVar("Kind", bound=ApiModel)


@dataclass(frozen=True)
class Terminated:
    """How a pod was terminated.

    Attributes:
        how: `deleted`; `terminated` by the action of that name, where the account may not delete; `gone` before.
    """

    how: Literal["deleted", "terminated", "gone"]


class RunPod:
    """Client of RunPod's REST API v2. Reads and deletions are retried; a creation with an unknown outcome is not.

    Args:
        key: API key.
        url: URL of the API.
        pause: Sleeps for some seconds.
        timeout: Seconds per request.

    Reference:
        https://docs.runpod.io/api-reference-v2
    """

    def __init__(
        self, key: str, url: str = DEFAULT_URL, *, pause: Callable[[float], None] = time.sleep, timeout: float = 30.0
    ) -> None:
        import httpx

        self.url = url
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=timeout)
        self._pause = pause

    def pods(self) -> list[Pod]:
        """List all pods of the account, including those of other people.

        Returns:
            Pods; an empty list means that there are none.

        Raises:
            ApiError: The listing failed.
        """
        return self._read("/v2/pods", PodList).pods

    def pod(self, pod_id: str) -> Pod:
        """Return a pod by id.

        Args:
            pod_id: Id of the pod.

        Returns:
            The pod.
        """
        return self._read(f"/v2/pods/{pod_id}", Pod)

    def create_pod(self, body: dict[str, Any]) -> Pod:
        """Create a pod.

        Args:
            body: JSON object of the request.

        Returns:
            The new pod.

        Raises:
            Unavailable: The pod may exist all the same: search for its name before another attempt.
        """
        return self._parsed(self._send("POST", "/v2/pods", json=body), Pod)

    def terminate(self, pod_id: str) -> Terminated:
        """Terminate a pod; a pod that is gone already is not an error.

        Args:
            pod_id: Id of the pod.

        Returns:
            How the pod was terminated.

        Raises:
            ApiError: The pod could not be terminated.
        """
        try:
            self._send("DELETE", f"/v2/pods/{pod_id}")
        except NotFound:
            return Terminated("gone")
        except ApiError as error:
            if error.status not in (405, 409):
                raise
            try:
                self._send("POST", f"/v2/pods/{pod_id}/action", json={"action": "terminate"}, idempotent=True)
            except NotFound:
                return Terminated("gone")
            return Terminated("terminated")
        return Terminated("deleted")

    def gpu_types(self, *, count: int, cloud: str, min_cuda: str) -> list[GpuType]:
        """Return the GPU types with their availability.

        Args:
            count: Number of GPUs per pod.
            cloud: `SECURE` or `COMMUNITY`.
            min_cuda: CUDA version that hosts must support; others do not count as available.

        Returns:
            GPU types of the catalog.
        """
        query = {"include": "AVAILABILITY", "product": "POD", "count": str(count), "cloud": cloud,
                 "minCudaVersion": min_cuda}  # fmt: skip
        return self._read("/v2/catalog/gpus", GpuTypeList, query).gpus

    def data_centers(self) -> list[DataCenter]:
        """Return the data centers.

        Returns:
            Data centers of the catalog.
        """
        return self._read("/v2/catalog/datacenters", DataCenterList).dataCenters

    def volumes(self) -> list[Volume]:
        """Return the network volumes of the account.

        Returns:
            Volumes.
        """
        return self._read("/v2/network-volumes", VolumeList).networkVolumes

    def create_volume(self, name: str, size: int, data_center: str) -> Volume:
        """Create a network volume.

        Args:
            name: Name of the volume.
            size: Size in GB.
            data_center: Id of the data center.

        Returns:
            The new volume.

        Raises:
            Unavailable: The volume may exist all the same.
        """
        body = {"name": name, "size": size, "dataCenter": data_center}
        return self._parsed(self._send("POST", "/v2/network-volumes", json=body), Volume)

    def delete_volume(self, volume_id: str) -> None:
        """Delete a network volume; a volume that is gone already is not an error.

        Args:
            volume_id: Id of the volume.
        """
        try:
            self._send("DELETE", f"/v2/network-volumes/{volume_id}")
        except NotFound:
            return

    def _read(self, path: str, kind: type[Kind], query: Mapping[str, str] | None = None) -> Kind:
        return self._parsed(self._send("GET", path, query=query), kind)

    def _parsed(self, response: httpx.Response, kind: type[Kind]) -> Kind:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise Unavailable(f"invalid response ({error.error_count()} fields)") from error

    def _send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        query: Mapping[str, str] | None = None,
        idempotent: bool = False,
    ) -> httpx.Response:
        """Send a request; idempotent requests (all GET and DELETE requests among them) are retried."""
        import httpx

        idempotent = idempotent or method != "POST"
        for attempt in range(TRIES):
            pause = 0.5 * 2.0**attempt
            try:
                response = self._http.request(method, path, json=json, params=query)
            except httpx.HTTPError as error:
                not_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                api_error: ApiError = Unavailable(f"no response from {self.url} ({type(error).__name__})")
                retry = idempotent or not_sent
            else:
                if response.is_success:
                    return response
                api_error = _error(response)
                retry = isinstance(api_error, RateLimited) or (idempotent and isinstance(api_error, Unavailable))
                if isinstance(api_error, RateLimited):
                    api_error.retry_after = _retry_after(response)
                    pause = pause if api_error.retry_after is None else api_error.retry_after
            if not retry or attempt == TRIES - 1 or pause > LONGEST_PAUSE:
                raise api_error
            self._pause(pause)
        raise AssertionError


def _error(response: httpx.Response) -> ApiError:
    try:
        document = response.json()
    except ValueError:
        document = {}
    document = document if isinstance(document, dict) else {}
    detail = str(document.get("detail") or document.get("title") or response.reason_phrase)
    errors = document.get("errors")
    if isinstance(errors, list) and errors:
        detail += ": " + "; ".join(map(str, errors))
    kind = Unavailable if response.status_code >= 500 else ERRORS.get(response.status_code, ApiError)
    return kind(detail, response.status_code)


def _retry_after(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers["Retry-After"])
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except (KeyError, ValueError):
        return None
