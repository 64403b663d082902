"""Access control of the service: hosts, origins, the bearer token, and the security headers of responses.

The middleware runs before FastAPI reads the body of a request. FastAPI's own security dependencies run after it, so
that a client without a token could make the server read and parse a body; `HTTPBearer` therefore parses the header in
the backend of Starlette's `AuthenticationMiddleware`, and the dependency only documents the scheme in OpenAPI.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from dataclasses import dataclass
from typing import Any

from fastapi.exception_handlers import http_exception_handler
from fastapi.security import HTTPBearer
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser, SimpleUser
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send
from typing_extensions import override

MAX_BODY_BYTES = 1_000_000
PUBLIC_PATHS = ("/", "/healthz", "/docs", "/openapi.json")  # contain nothing about the model's songs
PUBLIC_FOLDER = "/static/"
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
SECURITY_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}
bearer_scheme = HTTPBearer(auto_error=False, description="The token that `rainbow_ray.serve` was started with.")

logger = logging.getLogger("rainbow_ray.serve")


@dataclass(frozen=True)
class AccessPolicy:
    """Who may use the service.

    Attributes:
        token_hash: SHA-256 of the token that requests must send, as `hash_token` returns it; None: no token.
        allowed_hosts: Names and addresses that the `Host` header may contain; None: any.
    """

    token_hash: str | None = None
    allowed_hosts: tuple[str, ...] | None = LOOPBACK_HOSTS


def hash_token(token: str) -> str:
    """Return the SHA-256 of a token, so that the service does not keep the token itself.

    Args:
        token: The token.

    Returns:
        Hexadecimal digest.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def make_middleware(policy: AccessPolicy) -> list[Middleware]:
    """Return the middleware of the service, the outermost first.

    Args:
        policy: Who may use the service.

    Returns:
        Arguments of `FastAPI(middleware=…)`.
    """
    hosts = ["*"] if policy.allowed_hosts is None else [_bracket(host) for host in policy.allowed_hosts]
    handlers: dict[Any, ExceptionHandler] = {Exception: _internal_error, HTTPException: _http_error}
    middleware = [
        Middleware(SecurityHeadersMiddleware),
        # a handler for `Exception` that is registered with the app itself would raise the exception again
        Middleware(ExceptionMiddleware, handlers=handlers),
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        Middleware(SameOriginMiddleware),
        Middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY_BYTES),
    ]
    if policy.token_hash is not None:
        backend = BearerTokenBackend(policy.token_hash)
        middleware.append(Middleware(AuthenticationMiddleware, backend=backend, on_error=_unauthorized))
    return middleware


class SecurityHeadersMiddleware:
    """Adds `SECURITY_HEADERS` to every response. Starlette has no middleware for response headers.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; the arguments are those of ASGI.

        Args:
            scope: Facts about the connection.
            receive: Returns the next message of the request.
            send: Sends a message of the response.
        """

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class SameOriginMiddleware:
    """Rejects requests of pages of other origins, and requests with several `Host` headers.

    Starlette's `CORSMiddleware` only keeps a page from reading the response: the request is processed nevertheless. It
    does not compare `Origin` with `Host` either. Its `TrustedHostMiddleware` reads only the first `Host` header.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; the arguments are those of ASGI.

        Args:
            scope: Facts about the connection.
            receive: Returns the next message of the request.
            send: Sends a message of the response.

        Raises:
            HTTPException: The request is rejected.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if len(headers.getlist("host")) > 1:
            raise HTTPException(400, "a request must have one Host header")
        if any(origin.partition("://")[2] != headers.get("host") for origin in headers.getlist("origin")):
            raise HTTPException(403, "requests of pages of other origins are not allowed")
        await self.app(scope, receive, send)


class BearerTokenBackend(AuthenticationBackend):
    """Accepts requests for public paths, and requests with the token.

    Args:
        token_hash: SHA-256 of the token, as `hash_token` returns it.
    """

    def __init__(self, token_hash: str) -> None:
        self.token_hash = token_hash

    @override
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        path = conn.scope["path"]
        if path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDER):
            return None
        credentials = await bearer_scheme(conn)
        token = "" if credentials is None else credentials.credentials
        # Starlette decodes headers as latin-1, so this restores the bytes that were sent
        digest = hashlib.sha256(token.encode("latin-1", "replace")).hexdigest()
        if not hmac.compare_digest(digest, self.token_hash):
            raise AuthenticationError("a token is needed: Authorization: Bearer TOKEN")
        return AuthCredentials(["authenticated"]), SimpleUser("token")


def _bracket(host: str) -> str:
    """Return a host as the `Host` header contains it, with brackets around IPv6 addresses."""
    return f"[{host}]" if ":" in host else host


def _unauthorized(_connection: HTTPConnection, error: AuthenticationError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=401, headers={"www-authenticate": "Bearer"})


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return await http_exception_handler(request, error)


async def _internal_error(_request: Request, error: Exception) -> JSONResponse:
    """Log an unexpected exception; the client learns nothing about it."""
    logger.error("a request failed", exc_info=error)
    return JSONResponse({"detail": "internal error; see the log of the server"}, status_code=500)
