"""Objects of RunPod's REST API v2, restricted to the fields that a cluster uses."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

ALIVE = ("PROVISIONING", "STARTING", "RUNNING")


class ApiModel(BaseModel):
    """Base of the API's objects; unknown fields are ignored."""


class SshEndpoint(ApiModel):
    """Address of a pod's ssh server."""

    host: str
    port: int
    username: str


class Ssh(ApiModel):
    """Ways to reach a pod by ssh."""

    direct: SshEndpoint | None = None


class GlobalNetworking(ApiModel):
    """Private network of a pod."""

    enabled: bool = False
    ip: str | None = None


class GpuOfPod(ApiModel):
    """GPUs of a pod."""

    id: str
    count: int = 1


class NetworkMount(ApiModel):
    """A mounted network volume."""

    volumeId: str


class Mounts(ApiModel):
    """Mounts of a pod."""

    network: list[NetworkMount] = []


class Pod(ApiModel):
    """A pod."""

    id: str
    name: str
    status: str
    cost: float = Field(0.0, description="current price in USD per hour")
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
        """Whether the pod is billed, or will be when it has started."""
        return self.status in ALIVE


class Price(ApiModel):
    """Price of a GPU type in USD per hour."""

    secure: float = 0.0
    community: float = 0.0


class MaxCount(ApiModel):
    """Largest number of GPUs in a pod."""

    secure: int = 0
    community: int = 0


class Availability(ApiModel):
    """Availability of a GPU type in a data center."""

    id: str
    availability: str = "NONE"


class GpuType(ApiModel):
    """A GPU type of the catalog."""

    id: str
    name: str
    manufacturer: str = "UNKNOWN"
    memory: int = Field(description="GB")
    secure: bool = False
    community: bool = False
    price: Price = Price()
    maxCount: MaxCount = MaxCount()
    dataCenters: list[Availability] = []


class DataCenter(ApiModel):
    """A data center of the catalog."""

    id: str
    name: str
    region: str = "UNKNOWN"
    globalNetwork: bool = False
    networkVolumeTypes: list[str] = []


class Volume(ApiModel):
    """A network volume."""

    id: str
    name: str
    size: int = Field(description="GB")
    dataCenter: str
    type: str = "STANDARD"


class PodList(ApiModel):
    """The response of a listing of pods."""

    pods: list[Pod]


class GpuTypeList(ApiModel):
    """The response of the catalog of GPU types."""

    gpus: list[GpuType]


class DataCenterList(ApiModel):
    """The response of the catalog of data centers."""

    dataCenters: list[DataCenter]


class VolumeList(ApiModel):
    """The response of a listing of volumes."""

    networkVolumes: list[Volume]
