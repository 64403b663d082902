"""Who may ask, and how much at once: before anything is read of a request, and whatever goes wrong behind.

Plain ASGI, so that it stands around everything.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_BODY = 1_000_000  # bytes
TOO_LARGE = f"the request is larger than {LARGEST_BODY:,} bytes"
OPEN = ("/", "/healthz", "/docs", "/openapi.json")  # what says nothing of the model's songs needs no token
OPEN_FOLDER = "/static/"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}

log = logging.getLogger("rainbow_ray.serve")


@dataclass(frozen=True)
class Gate:
    """`token_hash` is SHA-256 of the token that is asked for, None on a machine of one's own. `hosts`: names that a
    request may call us by, None for any."""

    token_hash: str | None = None
    hosts: tuple[str, ...] | None = LOOPBACK


class TooLarge(Exception):
    """More of a body has come than is read."""


class Body:
    """What is read of a request, and whether it was too much: frameworks turn what is raised while they read into an
    error of their own."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.read, self.too_large = receive, 0, False

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self.receive()
        self.read += len(message.get("body", b"") or b"")
        if self.read > LARGEST_BODY:
            self.too_large = True
            raise TooLarge
        return message


class Guard:
    """Refuses in JSON: a foreign host or origin (403), no token (401), too large a body (413); errors are 500."""

    def __init__(self, app: App, gate: Gate) -> None:
        self.app, self.gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        named = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        twice = sum(name == "host" for name, _ in named) > 1
        refused = (400, "one host at a time") if twice else self._refuse(scope["path"], dict(named))
        if refused is not None:
            await _answer(send, *refused)
        else:
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """To the interface behind, whose errors end here."""
        body, begun = Body(receive), False

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if body.too_large:
                return
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", []), *_encoded(HEADERS)]
            await send(message)

        try:
            await self.app(scope, body, watched)
        except TooLarge:
            pass
        except RecursionError:
            await _answer(send, 400, "this JSON is nested too deeply")
        except Exception:
            log.exception("a request failed")  # here; the client is told nothing of it
            if not begun:
                await _answer(send, 500, "something went wrong here; the log of the server says what")
        if body.too_large and not begun:
            await _answer(send, 413, TOO_LARGE)

    def _refuse(self, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        gate = self.gate
        host = urlsplit(f"//{headers.get('host', '')}").hostname if _is_host(headers.get("host", "")) else None
        if gate.hosts is not None and host not in gate.hosts:
            return 403, "this server does not go by that name"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            return 403, "pages of other servers may not ask"
        length = headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > len(str(LARGEST_BODY)) + 1 or int(length) > LARGEST_BODY):
            return 413, TOO_LARGE
        is_open = path in OPEN or path.startswith(OPEN_FOLDER)
        if gate.token_hash is not None and not is_open and not _knows(headers, gate.token_hash):
            return 401, "a token is needed: Authorization: Bearer TOKEN"
        return None


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _is_host(value: str) -> bool:
    try:
        urlsplit(f"//{value}").port  # noqa: B018 - raises for what is none
    except ValueError:
        return False
    return bool(value) and "@" not in value


def _knows(headers: dict[str, str], wanted: str) -> bool:
    kind, _, token = headers.get("authorization", "").partition(" ")
    found = hashlib.sha256(token.strip().encode("latin-1", "replace")).hexdigest()
    return kind.lower() == "bearer" and hmac.compare_digest(found, wanted)


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **HEADERS}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
