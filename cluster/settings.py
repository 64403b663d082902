"""What a cluster should be: `cluster.yaml` and the flags of the command line over it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rainbow_ray.utils.errors import InputError, did_you_mean

DEFAULT_FILE = Path("cluster.yaml")
SSH_PORT = "22/tcp"
MOST_PODS = 32
# of RunPod's own images: CUDA 12.8, Ubuntu 24.04, Python 3.12
DEFAULT_IMAGE = "runpod/base:1.0.2-cuda1281-ubuntu2404"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 366 * 86400.0  # what is longer is a slip of the hand
# names of variables whose values nobody else should read
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
        raise ValueError("a duration is more than nothing")
    if not math.isfinite(seconds) or seconds > LONGEST:
        raise ValueError("a duration is at most 366d")
    return seconds


def say_duration(seconds: float) -> str:
    """Format a duration.

    Args:
        seconds: Duration in seconds.

    Returns:
        Text such as `8 h`, `1 h 30 min` or `45 s`.
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0)
    return " ".join(parts) or f"{rest} s"


def _names(value: Any) -> Any:
    """`A,B` is a list, as `[A, B]` is; YAML takes `4090` for a number."""
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
        raise ValueError(f"{value!r} names no cluster: small letters, digits and dashes, a letter first")
    return value


ClusterName = Annotated[str, BeforeValidator(check_name)]
Seconds = Annotated[float, BeforeValidator(parse_duration)]
Names = Annotated[list[str], BeforeValidator(_names)]


class VolumeSettings(BaseModel):
    """The network volume that all pods share; it outlives them."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
    name: str | None = Field(None, description="its name or id; null: rainbow-NAME, made where there is none")
    size: int = Field(50, ge=10, le=4096, description="GB, when it is made")


class Settings(BaseModel):
    """A cluster, as wished for."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
    name: ClusterName = "rainbow"
    pods: int = Field(1, ge=1, le=MOST_PODS)
    gpu: Names = Field([], description="names or ids, most wanted first; empty: the cheapest that is large enough")
    gpus_per_pod: int = Field(1, ge=1, le=8)
    min_memory: int = Field(16, ge=1, description="GB of one GPU, where no GPU is named")
    data_centers: Names = Field([], description="ids, most wanted first; empty: any")
    cloud: Literal["SECURE", "COMMUNITY"] = "SECURE"
    volume: VolumeSettings = VolumeSettings()
    image: str = DEFAULT_IMAGE
    disk: int = Field(40, ge=10, description="GB of each pod's own, gone with it")
    ports: Names = Field([SSH_PORT], description="only 22/tcp: everything else goes through ssh")
    min_cuda: str = Field("12.8", pattern=r"^\d+\.\d+$")
    max_hourly: float | None = Field(None, gt=0, description="USD an hour for all pods together")
    ttl: Seconds = Field(8 * 3600.0, description="after this every pod ends itself, whatever it does")
    idle: Seconds = Field(1800.0, description="without a job or a login for so long, the cluster ends itself")
    grace: Seconds = Field(600.0, description="a pod ends itself when the head is gone for longer")
    retries: int = Field(3, ge=0, description="pods that may be replaced while the cluster comes up")
    ready_within: Seconds = Field(900.0, description="from a pod's creation to ssh; then it is replaced")
    workspace: str = Field("/workspace", pattern=r"^/", description="where the volume is mounted")
    env: dict[str, str] = Field({}, description="of pods; never secrets: these are asked for by name in `secrets`")
    secrets: Names = Field(["WANDB_API_KEY", "HF_TOKEN"], description="variables of here, brought to pods over ssh")


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
    document = _document(path)
    problems = [
        f"{path or DEFAULT_FILE}: {key}: unknown{did_you_mean(str(key), Settings.model_fields)}"
        for key in document
        if key not in Settings.model_fields
    ]
    merged: dict[str, Any] = {key: value for key, value in document.items() if key in Settings.model_fields}
    for key, value in flags.items():
        section, dot, field = key.partition(".")
        if dot:
            inner = merged.get(section)
            merged[section] = {**(inner if isinstance(inner, dict) else {}), field: value}
        else:
            merged[key] = value
    settings = None
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        problems += [
            f"{_where(detail['loc'], flags, path)}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors()
        ]
    if settings is not None:
        problems += _refused(settings)
    if problems or settings is None:
        raise InputError(problems)
    return settings


def named_in(path: Path | None) -> str | None:
    """Return the name of the cluster in a settings file.

    Args:
        path: Settings file; None for `cluster.yaml` in the current folder, if it exists.

    Returns:
        The name, or None where the file has none.

    Raises:
        InputError: The file cannot be read, or the name is invalid.
    """
    name = _document(path).get("name")
    try:
        return None if name is None else check_name(name)
    except ValueError as error:
        raise InputError(f"{path or DEFAULT_FILE}: name: {error}") from error


def _document(path: Path | None) -> dict[Any, Any]:
    if path is None and not DEFAULT_FILE.exists():
        return {}
    import yaml

    source = path or DEFAULT_FILE
    try:
        document = yaml.safe_load(source.read_text())
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}; cluster/cluster.example.yaml is one to begin with") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not YAML ({str(error).splitlines()[0]})") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InputError(f"{source}: keys and values were expected, such as `pods: 2`")
    return document


def _where(place: tuple[int | str, ...], flags: dict[str, Any], path: Path | None) -> str:
    key = ".".join(map(str, place))
    top = next((name for name in flags if key == name or key.startswith(f"{name}.")), None)
    return f"--{top.replace('_', '-')}" if top else f"{path or DEFAULT_FILE}: {key}"


def _refused(settings: Settings) -> list[str]:
    """What can be written down and would be a mistake."""
    problems = []
    for port in settings.ports:
        if port.startswith("8265"):
            problems.append(
                f"ports: {port} would put Ray's dashboard, which can run any command, on the open internet;"
                " `python -m cluster dashboard` brings it here through ssh"
            )
        elif port != SSH_PORT:
            problems.append(f"ports: {port}: only {SSH_PORT} is published; tunnel the rest through ssh")
    if SSH_PORT not in settings.ports:
        problems.append(f"ports: {SSH_PORT} is needed: the cluster is built through ssh")
    for name in [*settings.env, *settings.secrets]:
        if name.upper().startswith("RUNPOD_"):
            problems.append(f"{name}: never brought to pods: the account's key stays here, and each pod has its own")
    for name in settings.env:
        if _SECRET.search(name.upper()):
            problems.append(f"env.{name}: anyone who may read the pod reads its env; name it in `secrets` instead")
    return problems
