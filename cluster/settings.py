"""Settings of a cluster: `cluster.yaml`, overridden by flags of the command line."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cluster.torch_cuda import required_cuda
from rainbow_ray.utils.errors import InputError, did_you_mean

DEFAULT_FILE = Path("cluster.yaml")
SSH_PORT = "22/tcp"
MAX_PODS = 32
# an image of RunPod: CUDA 12.8, Ubuntu 24.04, Python 3.12
DEFAULT_IMAGE = "runpod/base:1.0.2-cuda1281-ubuntu2404"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_DURATION_SECONDS = 366 * 86400.0  # longer durations are most likely typing errors
# names of environment variables that hold secrets
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CRED|AUTH")


def parse_duration(value: Any) -> float:
    """Parse a duration.

    Args:
        value: Text such as `8h`, `90m` or `1h30m`, or a number of seconds.

    Returns:
        Seconds.

    Raises:
        ValueError: The value is not a positive duration of at most 366 days.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = str(value).strip().lower()
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError(f"{value!r} is not a duration such as 8h, 90m or 1h30m")
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not seconds > 0:
        raise ValueError("a duration must be positive")
    if not math.isfinite(seconds) or seconds > MAX_DURATION_SECONDS:
        raise ValueError("a duration must be at most 366d")
    return seconds


def format_duration(seconds: float) -> str:
    """Format a duration.

    Args:
        seconds: Duration in seconds.

    Returns:
        Text such as `8 h`, `1 h 30 min` or `45 s`.
    """
    minutes, remaining_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0)
    return " ".join(parts) or f"{remaining_seconds} s"


def _names(value: Any) -> Any:
    """Convert `A,B` to a list; YAML reads `4090` as a number."""
    if isinstance(value, str | int):
        value = [part.strip() for part in str(value).split(",") if part.strip()]
    return [str(part) if isinstance(part, int) else part for part in value] if isinstance(value, list) else value


def check_name(value: Any) -> str:
    """Check the name of a cluster, which is used in folders and names of pods.

    Args:
        value: A value of the configuration or the command line.

    Returns:
        The name.

    Raises:
        ValueError: The value is not a valid name.
    """
    if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", value):
        raise ValueError(
            f"invalid cluster name {value!r}: use lowercase letters, digits and dashes, starting with a letter"
        )
    return value


ClusterName = Annotated[str, BeforeValidator(check_name)]
Seconds = Annotated[float, BeforeValidator(parse_duration)]
Names = Annotated[list[str], BeforeValidator(_names)]
# YAML reads 12.8 as a number
CudaVersion = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, float) else value)]


class VolumeSettings(BaseModel):
    """The network volume that all pods share; it is kept when they are terminated."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
    name: str | None = Field(None, description="name or id; null: rainbow-NAME, created if it does not exist")
    size: int = Field(50, ge=10, le=4096, description="GB, when it is created")


class Settings(BaseModel):
    """Requested properties of a cluster."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
    name: ClusterName = "rainbow"
    pods: int = Field(1, ge=1, le=MAX_PODS)
    gpu: Names = Field([], description="names or ids in order of preference; empty: by price, with at least min_memory")
    gpus_per_pod: int = Field(1, ge=1, le=8)
    min_memory: int = Field(16, ge=1, description="minimum GB of one GPU, if `gpu` is empty")
    data_centers: Names = Field([], description="ids in order of preference; empty: any")
    cloud: Literal["SECURE", "COMMUNITY"] = "SECURE"
    volume: VolumeSettings = VolumeSettings()
    image: str = DEFAULT_IMAGE
    disk: int = Field(40, ge=10, description="GB of each pod's own disk, deleted with the pod")
    ports: Names = Field([SSH_PORT], description="only 22/tcp is allowed: everything else is tunneled through ssh")
    min_cuda: CudaVersion = Field(
        default_factory=required_cuda, pattern=r"^\d+\.\d+$",
        description="CUDA version that the host's driver supports; by default what the locked PyTorch needs",
    )  # fmt: skip
    max_hourly: float | None = Field(None, gt=0, description="maximum USD per hour for all pods together")
    ttl: Seconds = Field(8 * 3600.0, description="every pod terminates itself after this time, also while jobs run")
    idle: Seconds = Field(1800.0, description="the cluster terminates itself after this time without jobs or logins")
    grace: Seconds = Field(600.0, description="a worker terminates itself when the head has not answered for this time")
    retries: int = Field(3, ge=0, description="number of pods that may be replaced while the cluster starts")
    ready_within: Seconds = Field(
        900.0, description="time from a pod's creation until ssh answers, after which the pod is replaced"
    )
    workspace: str = Field("/workspace", pattern=r"^/", description="mount point of the volume")
    env: dict[str, str] = Field(
        {}, description="environment variables of pods; never secrets, which are named in `secrets`"
    )
    secrets: Names = Field(
        ["WANDB_API_KEY", "HF_TOKEN"], description="local environment variables that are copied to pods over ssh"
    )


def read_settings(path: Path | None, flags: dict[str, Any]) -> Settings:
    """Read the settings of a cluster: the file, overridden by flags.

    Args:
        path: Settings file; None for `cluster.yaml` in the current folder, if it exists.
        flags: Values of flags by dotted key.

    Returns:
        The validated settings.

    Raises:
        InputError: Unknown keys and invalid values, with their positions.
    """
    document = _read_document(path)
    errors = [
        f"{path or DEFAULT_FILE}: {key}: unknown key{did_you_mean(str(key), Settings.model_fields)}"
        for key in document
        if key not in Settings.model_fields
    ]
    merged: dict[str, Any] = {key: value for key, value in document.items() if key in Settings.model_fields}
    for key, value in flags.items():
        section, separator, field = key.partition(".")
        if separator:
            values = merged.get(section)
            merged[section] = {**(values if isinstance(values, dict) else {}), field: value}
        else:
            merged[key] = value
    settings = None
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        errors += [
            f"{_position(detail['loc'], flags, path)}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors()
        ]
    if settings is not None:
        errors += _check_security(settings)
    if errors or settings is None:
        raise InputError(errors)
    return settings


def read_cluster_name(path: Path | None) -> str | None:
    """Return the name of the cluster in a settings file.

    Args:
        path: Settings file; None for `cluster.yaml` in the current folder, if it exists.

    Returns:
        The name, or None where the file has none.

    Raises:
        InputError: The file cannot be read, or the name is invalid.
    """
    name = _read_document(path).get("name")
    try:
        return None if name is None else check_name(name)
    except ValueError as error:
        raise InputError(f"{path or DEFAULT_FILE}: name: {error}") from error


def _read_document(path: Path | None) -> dict[Any, Any]:
    if path is None and not DEFAULT_FILE.exists():
        return {}
    import yaml

    source = path or DEFAULT_FILE
    try:
        document = yaml.safe_load(source.read_text())
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}; see cluster/cluster.example.yaml for an example") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: invalid YAML ({str(error).splitlines()[0]})") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InputError(f"{source}: expected keys and values, for example `pods: 2`")
    return document


def _position(location: tuple[int | str, ...], flags: dict[str, Any], path: Path | None) -> str:
    key = ".".join(map(str, location))
    flag = next((name for name in flags if key == name or key.startswith(f"{name}.")), None)
    return f"--{flag.replace('_', '-')}" if flag else f"{path or DEFAULT_FILE}: {key}"


def _check_security(settings: Settings) -> list[str]:
    """Return errors for valid values that would publish a port or a secret."""
    errors = []
    for port in settings.ports:
        if port.startswith("8265"):
            errors.append(
                f"ports: {port} would publish the Ray dashboard, which can run any command, on the internet;"
                " use `python -m cluster dashboard` to forward it through ssh"
            )
        elif port != SSH_PORT:
            errors.append(f"ports: {port}: only {SSH_PORT} may be published; tunnel other ports through ssh")
    if SSH_PORT not in settings.ports:
        errors.append(f"ports: {SSH_PORT} is required: the cluster is set up through ssh")
    for name in [*settings.env, *settings.secrets]:
        if name.upper().startswith("RUNPOD_"):
            errors.append(f"{name}: RUNPOD_ variables are never copied to pods, since each pod has its own key")
    for name in settings.env:
        if _SECRET.search(name.upper()):
            errors.append(
                f"env.{name}: env is visible to everyone with access to the pod; list the variable in `secrets` instead"
            )
    return errors
