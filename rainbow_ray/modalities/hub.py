"""The Hugging Face hub: asked once whether it can be reached, and its libraries' own lines held back."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Iterator

from rainbow_ray.utils.errors import first_line

HUB_SECONDS = 5.0  # for the hub to answer


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Restrict huggingface_hub to files that were downloaded before, whatever a folder's config asks for.

    Yields:
        None.
    """
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress the messages of transformers and huggingface_hub on stderr; our own errors have what matters of them.

    Yields:
        None.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity(), hub_logging.get_verbosity()
    logging.set_verbosity_error()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before[0])
        hub_logging.set_verbosity(before[1])


def hub_problem() -> str | None:
    """Return why the hub cannot be reached. A process asks it once, without a retry.

    The request goes through huggingface_hub's own session, so that proxies, certificates and `HF_ENDPOINT` apply.

    Returns:
        The reason; None if the hub answers.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return _ask_hub(constants.ENDPOINT)


@functools.cache
def _ask_hub(endpoint: str) -> str | None:
    from huggingface_hub import constants, get_session

    is_default = constants.HF_HUB_ETAG_TIMEOUT == constants.DEFAULT_ETAG_TIMEOUT
    seconds = HUB_SECONDS if is_default else float(constants.HF_HUB_ETAG_TIMEOUT)
    answer: list[str | None] = [f"no answer within {seconds:g} s; HF_HUB_ETAG_TIMEOUT sets how many"]

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=seconds, follow_redirects=False).status_code
            answer[0] = f"it answers with status {status}" if status >= 500 else None
        except Exception as error:  # of whichever HTTP library huggingface_hub uses
            answer[0] = first_line(error)

    asking = threading.Thread(target=ask, daemon=True, name="ask the hub")  # a name server may take longer than HTTP
    asking.start()
    asking.join(seconds)
    return answer[0] and f"{endpoint} cannot be reached ({answer[0]})"
