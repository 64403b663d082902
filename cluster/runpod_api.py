"""RunPod's REST API v2, as much of it as a cluster needs; its errors as the API means them.

The specification is at https://docs.runpod.io/api-reference-v2. Nothing here decides anything: `lifecycle` does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "https://api.runpod.io"
TRIES = 5
LONGEST_PAUSE = 60.0  # seconds; a longer Retry-After is the user's to wait for
ALIVE = ("PROVISIONING", "STARTING", "RUNNING")


class ApiError(Exception):
    """What the API refused or could not do: one sentence, and what to do about it."""

    advice = "Try again; if it stays, look at https://uptime.runpod.io."

    def __init__(self, detail: str, status: int | None = None) -> None:
        self.detail, self.status = detail, status
        self.retry_after: float | None = None  # seconds, where the API said so
        super().__init__(detail, status)

    @property
    def refused(self) -> bool:
        """It surely did not happen. Of everything else (5xx, a time-out, 408) nobody knows."""
        return self.status in ERRORS

    def __str__(self) -> str:
        told = self.detail.strip().rstrip(".")
        return f"RunPod: {told}{f' ({self.status})' if self.status else ''}. {self.advice}"


class Unauthorized(ApiError):
    advice = "RUNPOD_API_KEY is missing, wrong or expired: make one in the console under Settings, API Keys."


class NoBalance(ApiError):
    advice = "The balance is too low: add credit in the console under Billing. No other GPU would help."


class Forbidden(ApiError):
    advice = "The key may not do this: it needs read and write access to pods and network volumes."


class NotFound(ApiError):
    advice = "It is gone, or belongs to another account."


class Conflict(ApiError):
    advice = "The pod is in a state that does not allow this; `status` shows it."


class NoCapacity(ApiError):
    """400: this GPU in this data centre cannot be placed now, or a rule is broken: the API has one code for both."""

    advice = "Name more GPUs or data centres (--gpu A,B --dc X,Y), or try later."


class WrongRequest(ApiError):
    advice = "The request itself is wrong, so it was not tried again: look at the values in cluster.yaml."


class RateLimited(ApiError):
    advice = "Too many requests: wait a minute."


class Unavailable(ApiError):
    """5xx, a time-out, no way there: of a creation nobody knows whether it happened."""


ERRORS: Mapping[int, type[ApiError]] = {
    400: NoCapacity, 401: Unauthorized, 402: NoBalance, 403: Forbidden, 404: NotFound, 409: Conflict,
    422: WrongRequest, 429: RateLimited,
}  # fmt: skip


class _Answer(BaseModel):
    """Fields that we do not know are let pass: the API grows."""


Kind = TypeVar("Kind", bound=_Answer)


class SshEndpoint(_Answer):
    host: str
    port: int
    username: str


class Ssh(_Answer):
    direct: SshEndpoint | None = None


class GlobalNetworking(_Answer):
    enabled: bool = False
    ip: str | None = None


class GpuOfPod(_Answer):
    id: str
    count: int = 1


class NetworkMount(_Answer):
    volumeId: str


class Mounts(_Answer):
    network: list[NetworkMount] = []


class Pod(_Answer):
    id: str
    name: str
    status: str
    cost: float = Field(0.0, description="USD an hour, now")
    env: dict[str, str] = {}
    dataCenterId: str | None = None
    gpu: GpuOfPod | None = None
    ssh: Ssh = Ssh()
    globalNetworking: GlobalNetworking = GlobalNetworking()
    runtime: dict[str, Any] | None = None
    mounts: Mounts = Mounts()
    createdAt: str = ""

    @property
    def alive(self) -> bool:
        """It costs money, or is about to."""
        return self.status in ALIVE


class Price(_Answer):
    secure: float = 0.0
    community: float = 0.0


class MaxCount(_Answer):
    secure: int = 0
    community: int = 0


class Availability(_Answer):
    id: str
    availability: str = "NONE"


class GpuType(_Answer):
    id: str
    name: str
    manufacturer: str = "UNKNOWN"
    memory: int = Field(description="GB")
    secure: bool = False
    community: bool = False
    price: Price = Price()
    maxCount: MaxCount = MaxCount()
    dataCenters: list[Availability] = []


class DataCenter(_Answer):
    id: str
    name: str
    region: str = "UNKNOWN"
    globalNetwork: bool = False
    networkVolumeTypes: list[str] = []


class Volume(_Answer):
    id: str
    name: str
    size: int = Field(description="GB")
    dataCenter: str
    type: str = "STANDARD"


class _Pods(_Answer):
    pods: list[Pod]


class _Gpus(_Answer):
    gpus: list[GpuType]


class _Centers(_Answer):
    dataCenters: list[DataCenter]


class _Volumes(_Answer):
    networkVolumes: list[Volume]


@dataclass(frozen=True)
class Terminated:
    """How a pod was ended: deleted, or (where the account may not delete) by the action of the same name."""

    how: Literal["deleted", "terminated", "gone"]


class RunPod:
    """A client. Reading and deleting are tried again; a creation whose outcome is unknown is not."""

    def __init__(
        self, key: str, url: str = DEFAULT_URL, *, pause: Callable[[float], None] = time.sleep, timeout: float = 30.0
    ) -> None:
        import httpx

        self.url = url
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=timeout)
        self._pause = pause

    def pods(self) -> list[Pod]:
        """All pods of the account, other people's among them. Raises `ApiError`: an empty list means that none is."""
        return self._read("/v2/pods", _Pods).pods

    def pod(self, pod_id: str) -> Pod:
        return self._read(f"/v2/pods/{pod_id}", Pod)

    def create_pod(self, body: dict[str, Any]) -> Pod:
        """Raises `Unavailable` where the pod may exist all the same: look for its name before trying again."""
        return self._parsed(self._send("POST", "/v2/pods", json=body), Pod)

    def terminate(self, pod_id: str) -> Terminated:
        """End a pod and what it costs; a pod that is gone already is no error."""
        try:
            self._send("DELETE", f"/v2/pods/{pod_id}")
        except NotFound:
            return Terminated("gone")
        except ApiError as error:
            if error.status not in (405, 409):
                raise
            try:
                self._send("POST", f"/v2/pods/{pod_id}/action", json={"action": "terminate"}, again=True)
            except NotFound:
                return Terminated("gone")
            return Terminated("terminated")
        return Terminated("deleted")

    def gpu_types(self, *, count: int, cloud: str) -> list[GpuType]:
        asked = {"include": "AVAILABILITY", "product": "POD", "count": str(count), "cloud": cloud}
        return self._read("/v2/catalog/gpus", _Gpus, asked).gpus

    def data_centers(self) -> list[DataCenter]:
        return self._read("/v2/catalog/datacenters", _Centers).dataCenters

    def volumes(self) -> list[Volume]:
        return self._read("/v2/network-volumes", _Volumes).networkVolumes

    def create_volume(self, name: str, size: int, data_center: str) -> Volume:
        """Raises `Unavailable` where the volume may exist all the same."""
        body = {"name": name, "size": size, "dataCenter": data_center}
        return self._parsed(self._send("POST", "/v2/network-volumes", json=body), Volume)

    def delete_volume(self, volume_id: str) -> None:
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
            raise Unavailable(f"an answer that cannot be read ({error.error_count()} fields)") from error

    def _send(
        self, method: str, path: str, *, json: Any = None, query: Mapping[str, str] | None = None, again: bool = False
    ) -> httpx.Response:
        """One request. `again`: sent twice it means the same as once (so do GET and DELETE)."""
        import httpx

        again = again or method != "POST"
        for left in range(TRIES - 1, -1, -1):
            pause = 0.5 * 2.0 ** (TRIES - 1 - left)
            try:
                response = self._http.request(method, path, json=json, params=query)
            except httpx.HTTPError as error:
                unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                problem: ApiError = Unavailable(f"no answer from {self.url} ({type(error).__name__})")
                repeat = again or unsent
            else:
                if response.is_success:
                    return response
                problem = _error(response)
                repeat = isinstance(problem, RateLimited) or (again and isinstance(problem, Unavailable))
                if isinstance(problem, RateLimited):
                    problem.retry_after = _retry_after(response)
                    pause = pause if problem.retry_after is None else problem.retry_after
            if not repeat or left == 0 or pause > LONGEST_PAUSE:
                raise problem
            self._pause(pause)
        raise AssertionError


def _error(response: httpx.Response) -> ApiError:
    try:
        document = response.json()
    except ValueError:
        document = {}
    document = document if isinstance(document, dict) else {}
    detail = str(document.get("detail") or document.get("title") or response.reason_phrase)
    listed = document.get("errors")
    if isinstance(listed, list) and listed:
        detail += ": " + "; ".join(map(str, listed))
    kind = Unavailable if response.status_code >= 500 else ERRORS.get(response.status_code, ApiError)
    return kind(detail, response.status_code)


def _retry_after(response: httpx.Response) -> float | None:
    try:
        told = float(response.headers["Retry-After"])
        return max(0.0, told) if math.isfinite(told) else None
    except (KeyError, ValueError):
        return None
