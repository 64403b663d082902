"""Access to the Hugging Face hub: a cached connection test, offline mode, and suppression of log messages."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Iterator

from rainbow_ray.utils.errors import first_line

HUB_SECONDS = 5.0  # timeout of the connection test


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Restrict huggingface_hub to files that were downloaded before, whatever a folder's config asks for.

    Yields:
        None.
    """
    from huggingface_hub import constants

    previous, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = previous


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress the messages of transformers and huggingface_hub on stderr; failures are reported as `InputError`.

    Yields:
        None.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.disable_progress_bar()
    previous = logging.get_verbosity(), hub_logging.get_verbosity()
    logging.set_verbosity_error()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(previous[0])
        hub_logging.set_verbosity(previous[1])


def hub_problem() -> str | None:
    """Return why the hub cannot be reached. Each process tests it once, without a retry.

    The request goes through huggingface_hub's own session, so that proxies, certificates and `HF_ENDPOINT` apply.

    Returns:
        The reason; None if the hub answers.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return _test_connection(constants.ENDPOINT)


@functools.cache
def _test_connection(endpoint: str) -> str | None:
    from huggingface_hub import constants, get_session

    is_default = constants.HF_HUB_ETAG_TIMEOUT == constants.DEFAULT_ETAG_TIMEOUT
    seconds = HUB_SECONDS if is_default else float(constants.HF_HUB_ETAG_TIMEOUT)
    problem: list[str | None] = [f"no answer within {seconds:g} s; HF_HUB_ETAG_TIMEOUT sets the timeout"]

    def request() -> None:
        try:
            status = get_session().head(endpoint, timeout=seconds, follow_redirects=False).status_code
            problem[0] = f"it answers with status {status}" if status >= 500 else None
        except Exception as error:  # the type depends on the HTTP library of huggingface_hub
            problem[0] = first_line(error)

    # a thread, because the timeout of HTTP does not limit the time of name resolution
    thread = threading.Thread(target=request, daemon=True, name="hub connection test")
    thread.start()
    thread.join(seconds)
    return problem[0] and f"{endpoint} cannot be reached ({problem[0]})"
