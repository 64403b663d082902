"""A fake RunPod account: API v2 over HTTP on a local port, with fault injection.

Tests set stock, balance, prices and faults. Request and response bodies are validated against the specification if its
file exists; `violations` lists the errors.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

SPECIFICATION = Path(os.environ.get("RUNPOD_SPEC", Path(__file__).parents[3] / "shared/runpod/openapi-v2.json"))
KEY = "rpa_FAKEKEYOFTHEACCOUNT"
CLOUD = "SECURE"
PRICES = {"NVIDIA GeForce RTX 4090": 0.69, "NVIDIA RTX A5000": 0.27, "NVIDIA L40S": 0.86, "AMD Instinct MI300X": 1.99}
MEMORY = {"NVIDIA GeForce RTX 4090": 24, "NVIDIA RTX A5000": 24, "NVIDIA L40S": 48, "AMD Instinct MI300X": 192}
CENTERS = {"EU-RO-1": True, "US-TX-3": True, "US-GA-2": False}  # whether there is a private network between pods


@dataclass
class Fault:
    """A fault of the next matching requests: `kind` is an HTTP status or one of these words.

    lost    the request is executed, but the response is a 502
    silent  the request is executed, but the connection is closed without a response
    garbled the response is not JSON
    """

    method: str
    path: str  # prefix of the path
    kind: int | str
    times: int = 1
    retry_after: float | None = None
    detail: str = "injected fault"


@dataclass
class FakePod:
    """A pod of the account; `running_from` is the time from which it has a runtime, by the server's clock."""

    id: str
    body: dict[str, Any]
    key: str  # API key that can only terminate this pod
    cost: float
    created: float
    running_from: float
    address: tuple[str, int] = ("127.0.0.1", 22)
    private_ip: str = "10.0.0.1"
    status: str = "PROVISIONING"
    runtime: bool = True  # False: status RUNNING without a runtime
    locked: bool = False
    listed_from: float = 0.0  # listings may be delayed
    ended: float | None = None

    @property
    def gone(self) -> bool:
        return self.status == "TERMINATED"

    @property
    def center(self) -> str:
        return str((self.body.get("dataCenterIds") or [next(iter(CENTERS))])[0])


@dataclass
class Refused(Exception):
    status: int
    detail: str
    errors: list[str] = field(default_factory=list)


class FakeRunPod:
    """A fake account with a local server; use it as a context manager."""

    def __init__(self, *, clock: Callable[[], float] = time.time, start_seconds: float = 0.0) -> None:
        self.clock, self.start_seconds = clock, start_seconds
        self.without_runtime = 0  # number of next pods that never get a runtime
        self.listing_lag = 0.0  # seconds until a new pod is listed
        self.pods: dict[str, FakePod] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.stock: dict[tuple[str, str], int] = {(gpu, center): 10 for gpu in PRICES for center in CENTERS}
        self.balance = 100.0
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.violations: list[str] = []
        self.on_request: Callable[[str], None] = lambda method: None  # before the request is executed
        self.on_answer: Callable[[str], None] = lambda method: None  # after the request, before the response
        self.on_start: Callable[[FakePod], None] = lambda pod: None  # a pod starts
        self.on_end: Callable[[FakePod], None] = lambda pod: None
        self._lock = threading.RLock()
        self._check = Specification.read()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeRunPod:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.living():
            self.end(pod)
        self._server.shutdown()
        self._server.server_close()

    def living(self) -> list[FakePod]:
        """Return pods that are billed."""
        return [pod for pod in self.pods.values() if not pod.gone]

    def fail(self, method: str, path: str, kind: int | str, **options: Any) -> None:
        self.faults.append(Fault(method, path, kind, **options))

    def answer(self, method: str, path: str, query: dict[str, str], key: str, body: Any) -> tuple[int, Any]:
        """Return status and document of the response. Raises `Refused`."""
        parts = path.strip("/").split("/")[1:]
        owner = next((pod for pod in self.living() if pod.key == key), None)
        if key != KEY and owner is None:
            raise Refused(401, "no such key")
        if owner is not None and parts[:2] != ["pods", owner.id]:
            raise Refused(403, "this key belongs to a pod")
        with self._lock:
            response = self._answer_pods(method, parts, body) or self._answer_catalog(method, parts, query, body)
        if response is None:
            raise Refused(404, f"no {method} {path}")
        return response

    def _answer_pods(self, method: str, parts: list[str], body: Any) -> tuple[int, Any] | None:
        match [method, *parts]:
            case ["GET", "pods"]:
                now = self.clock()
                return 200, {"pods": [self._show(pod) for pod in self.living() if pod.listed_from <= now]}
            case ["POST", "pods"]:
                return 201, self._show(self._create(body))
            case ["GET", "pods", name]:
                return 200, self._show(self._pod(name))
            case ["DELETE", "pods", name]:
                self.end(self._pod(name))
                return 204, None
            case ["POST", "pods", name, "action"]:
                return self._act(self._pod(name), body)
        return None

    def _answer_catalog(
        self, method: str, parts: list[str], query: dict[str, str], body: Any
    ) -> tuple[int, Any] | None:
        match [method, *parts]:
            case ["GET", "network-volumes"]:
                return 200, {"networkVolumes": list(self.volumes.values())}
            case ["POST", "network-volumes"]:
                return 201, self._create_volume(body)
            case ["DELETE", "network-volumes", name]:
                return self._delete_volume(name)
            case ["GET", "catalog", "gpus"]:
                return 200, {"gpus": [self._gpu(name, query) for name in PRICES]}
            case ["GET", "catalog", "datacenters"]:
                return 200, {"dataCenters": [_center(name) for name in CENTERS]}
        return None

    def end(self, pod: FakePod) -> None:
        with self._lock:
            if pod.gone:
                return
            pod.status, pod.ended = "TERMINATED", self.clock()
            self.stock[pod.body["gpu"]["id"], pod.center] += 1
        self.on_end(pod)

    def add_foreign(self, name: str) -> FakePod:
        """Create a pod of another user in the same account."""
        return self._create({"name": name, "image": "someone/else", "gpu": {"id": "NVIDIA L40S"}, "env": {}})

    def add_by_hand(self, public_key: str) -> FakePod:
        """Create a pod as in the console, without settings of the cluster package."""
        body = {"name": "my pod", "image": "runpod/base", "gpu": {"id": "NVIDIA L40S"}}
        return self._create({**body, "env": {"PUBLIC_KEY": public_key}, "args": "bash -c 'exec $RRAY_START'"})

    def _create(self, body: dict[str, Any]) -> FakePod:
        gpu, count = body["gpu"]["id"], body["gpu"].get("count", 1)
        center = (body.get("dataCenterIds") or [next(iter(CENTERS))])[0]
        cost = PRICES.get(gpu, 0.0) * count
        if self.balance < cost:
            raise Refused(402, "insufficient balance")
        for mount in body.get("mounts", {}).get("network", []):
            volume = self.volumes.get(mount["volumeId"])
            if volume is None or volume["dataCenter"] != center:
                raise Refused(400, "the network volume is not in this data center")
        if body.get("globalNetworking") and not CENTERS[center]:
            raise Refused(400, "no global networking in this data center")
        if self.stock.get((gpu, center), 0) < 1:
            raise Refused(400, "There are no longer any instances available with the requested specifications.")
        self.stock[gpu, center] -= 1
        now = self.clock()
        number = len(self.pods) + 1
        pod = FakePod(
            id=f"pod{number:02d}{uuid.uuid4().hex[:6]}",
            body=body,
            key=f"rpa_POD{uuid.uuid4().hex}",
            cost=cost,
            created=now,
            running_from=now + self.start_seconds,
            listed_from=now + self.listing_lag,
            private_ip=f"10.0.0.{number}",
        )
        if self.without_runtime:
            self.without_runtime, pod.runtime = self.without_runtime - 1, False
        self.pods[pod.id] = pod
        self.on_start(pod)
        return pod

    def _pod(self, name: str) -> FakePod:
        pod = self.pods.get(name)
        if pod is None or pod.gone:
            raise Refused(404, "pod not found")
        return pod

    def _act(self, pod: FakePod, body: dict[str, Any]) -> tuple[int, Any]:
        if pod.locked:
            raise Refused(409, "the pod is locked")
        if body["action"] == "terminate":
            self.end(pod)
            return 204, None
        if body["action"] == "stop":
            pod.status = "EXITED"
            self.on_end(pod)
        return 200, self._show(pod)

    def _show(self, pod: FakePod) -> dict[str, Any]:
        started = self.clock() >= pod.running_from
        if pod.status == "PROVISIONING" and started:
            pod.status = "RUNNING"
        running = pod.status == "RUNNING"
        private = pod.body.get("globalNetworking", False)
        host, port = pod.address
        direct = {"host": host, "port": port, "username": "root", "command": f"ssh root@{host} -p {port}"}
        stamp = datetime.fromtimestamp(pod.created, UTC).isoformat().replace("+00:00", "Z")
        return {
            "id": pod.id, "name": pod.body["name"], "status": pod.status, "actions": ["stop", "terminate"],
            "image": pod.body["image"], "args": pod.body.get("args", ""), "disk": pod.body.get("disk", 20),
            "mounts": pod.body.get("mounts", {}), "ports": pod.body.get("ports", []), "env": pod.body.get("env", {}),
            "registry": None, "cloud": CLOUD, "dataCenterId": pod.center, "cudaVersion": "13.0",
            "gpu": {"id": pod.body["gpu"]["id"], "count": pod.body["gpu"].get("count", 1)},
            "ssh": {"proxy": None, "direct": direct if running else None}, "template": None, "cost": pod.cost,
            "locked": pod.locked, "runtime": {"uptime": 1} if running and pod.runtime else None, "createdAt": stamp,
            "startedAt": stamp if running else None,
            "globalNetworking": {"enabled": private, **({"ip": pod.private_ip} if private and running else {})},
        }  # fmt: skip

    def _create_volume(self, body: dict[str, Any]) -> dict[str, Any]:
        volume = {"id": f"vol{uuid.uuid4().hex[:8]}", "type": "STANDARD", **body}
        self.volumes[volume["id"]] = volume
        return volume

    def _delete_volume(self, name: str) -> tuple[int, Any]:
        if self.volumes.pop(name, None) is None:
            raise Refused(404, "volume not found")
        return 204, None

    def _gpu(self, name: str, query: dict[str, str]) -> dict[str, Any]:
        gpu: dict[str, Any] = {
            "id": name, "name": name.removeprefix("NVIDIA ").removeprefix("GeForce "), "pool": None,
            "manufacturer": name.split()[0], "memory": MEMORY[name], "secure": True, "community": False,
            "price": {"secure": PRICES[name], "community": 0.0}, "maxCount": {"secure": 8, "community": 0},
        }  # fmt: skip
        if query.get("include") == "AVAILABILITY":
            gpu["dataCenters"] = [
                {"id": center, "name": center, "availability": _level(self.stock.get((name, center), 0))}
                for center in CENTERS
            ]
        return gpu

    def handle(self, method: str, target: str, key: str, raw: bytes) -> tuple[int, Any, dict[str, str], bool]:
        """Return status, document and headers of the response, and whether a response is sent."""
        url = urlparse(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = json.loads(raw) if raw else None
        self.requests.append((method, url.path, body))
        if key == KEY:  # not for requests of pods
            self.on_request(method)
        fault = self._fault(method, url.path)
        if fault is not None and isinstance(fault.kind, int):
            headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            return fault.kind, _problem(fault.kind, fault.detail), headers, True
        try:
            errors = self._check.request(method, url.path, body)
            if errors:
                self.violations += errors
                raise Refused(422, "the request is invalid", errors)
            status, document = self.answer(method, url.path, query, key, body)
            self.violations += self._check.response(method, url.path, status, document)
            if key == KEY:
                self.on_answer(method)
        except Refused as refused:
            status, document = refused.status, _problem(refused.status, refused.detail, refused.errors)
        if fault is not None and fault.kind == "lost":
            return 502, _problem(502, "bad gateway"), {}, True
        if fault is not None and fault.kind == "garbled":
            return status, "<html>not JSON</html>", {}, True
        return status, document, {}, fault is None or fault.kind != "silent"

    def _fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and path.startswith(fault.path):
                    fault.times -= 1
                    return fault
        return None


@dataclass(frozen=True)
class Specification:
    """RunPod's OpenAPI specification, or None if its file does not exist."""

    document: dict[str, Any] | None

    @classmethod
    def read(cls) -> Specification:
        return cls(json.loads(SPECIFICATION.read_text()) if SPECIFICATION.exists() else None)

    def request(self, method: str, path: str, body: Any) -> list[str]:
        return self._errors(method, path, lambda operation: operation.get("requestBody", {}), body, "request")

    def response(self, method: str, path: str, status: int, document: Any) -> list[str]:
        return self._errors(
            method, path, lambda operation: operation["responses"].get(str(status), {}), document, "response"
        )

    def _errors(
        self, method: str, path: str, part: Callable[[dict[str, Any]], dict[str, Any]], body: Any, kind: str
    ) -> list[str]:
        if self.document is None:
            return []
        from jsonschema import Draft202012Validator

        operation = self._operation(method, path)
        if operation is None:
            return [f"{method} {path}: not in the specification"]
        schema = part(operation).get("content", {}).get("application/json", {}).get("schema")
        if schema is None:
            return [] if body is None else [f"{method} {path}: {kind} with a body"]
        validator = Draft202012Validator({**schema, "components": self.document["components"]})
        return [
            f"{method} {path} {kind}: {error.json_path} {error.message[:200]}" for error in validator.iter_errors(body)
        ]

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        assert self.document is not None
        path_parts = path.strip("/").split("/")
        for template, operations in self.document["paths"].items():
            template_parts = template.strip("/").split("/")
            matches = len(template_parts) == len(path_parts) and all(
                expected.startswith("{") or expected == part
                for expected, part in zip(template_parts, path_parts, strict=True)
            )
            if matches and method.lower() in operations:
                operation: dict[str, Any] = operations[method.lower()]
                return operation
        return None


def _handler(account: FakeRunPod) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            status, document, headers, is_answered = account.handle(self.command, self.path, key, raw)
            if not is_answered:
                self.close_connection = True
                return
            content = (
                b"" if document is None else (document if isinstance(document, str) else json.dumps(document)).encode()
            )
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a pod that terminated itself
                self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _serve

        def log_message(self, *_: object) -> None:
            """Keep the output of tests free of server logs."""

    return Handler


def _problem(status: int, detail: str, errors: list[str] | None = None) -> dict[str, Any]:
    return {"title": "error", "status": status, "detail": detail, **({"errors": errors} if errors else {})}


def _center(name: str) -> dict[str, Any]:
    region = "EUROPE" if name.startswith("EU") else "NORTH_AMERICA"
    return {"id": name, "name": name, "region": region, "networkVolumeTypes": ["STANDARD"], "compliance": [],
            "globalNetwork": CENTERS[name]}  # fmt: skip


def _level(stock: int) -> str:
    return "NONE" if stock == 0 else "LOW" if stock < 3 else "MEDIUM" if stock < 8 else "HIGH"
