"""Single requests to the Hugging Face hub, each with a timeout and without a second try, by the client, the
token and the settings of `huggingface_hub`. That library itself tries again for minutes where a server is
gone or busy, and how its client is called depends on its version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

from inspector.core.errors import InspectError, first_line

TIMEOUT = 10.0
"""Seconds that the hub may take to begin an answer; `HF_HUB_ETAG_TIMEOUT` sets another time."""
REDIRECTS = 5
"""How often a repository may have been renamed."""
_PIECE = 2**16


def library() -> Any:
    """The module `huggingface_hub`."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise InspectError(
            "huggingface_hub is not installed", "install it with: pip install 'torch-inspector[hf]'"
        ) from error
    except ValueError as error:  # it reads numbers from the environment
        raise InspectError(
            f"huggingface_hub does not start: {first_line(error)}", "check the variables HF_..."
        ) from error
    return huggingface_hub


def endpoint() -> str:
    """Where the hub is. Raises InspectError where it is nowhere."""
    where = str(library().constants.ENDPOINT)
    if not where:
        raise InspectError("HF_ENDPOINT is empty", "unset it, or set it to the address of a hub")
    return where


def timeout() -> float:
    """Seconds that a request waits."""
    chosen = getattr(library().constants, "HF_HUB_ETAG_TIMEOUT", TIMEOUT)
    return float(chosen) if chosen else TIMEOUT


def check_online() -> None:
    """Raise huggingface_hub's OfflineModeIsEnabled where HF_HUB_OFFLINE is set."""
    if library().constants.HF_HUB_OFFLINE:
        raise library().errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")


def address(name: str, file: str, revision: str) -> str:
    """The address of a file of a repository."""
    return str(library().hf_hub_url(name, file, revision=revision, endpoint=endpoint()))


def described(url: str) -> tuple[str | None, int | None]:
    """The commit and the bytes of a file on the hub, None where it does not say them. Large files redirect to
    another host, which is not asked. Raises what huggingface_hub and its client raise."""
    check_online()
    utils = library().utils
    session, headers = utils.get_session(), {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
    staying = {("follow_redirects" if _is_httpx(session) else "allow_redirects"): False}
    for _ in range(REDIRECTS):
        response = session.request("HEAD", url, headers=headers, timeout=timeout(), **staying)
        utils.hf_raise_for_status(response)
        target = urljoin(url, response.headers.get("Location", ""))
        if response.status_code // 100 != 3 or urlsplit(target)[:2] != urlsplit(url)[:2] or target == url:
            break
        url = target
    told = response.headers
    size = told.get("X-Linked-Size") or (None if "Location" in told else told.get("Content-Length"))
    return told.get("X-Repo-Commit"), int(size) if size and size.isdigit() else None


@contextmanager
def streamed(url: str, begin: int, end: int) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """The answer to a request for bytes [begin, end) of a file, and its body in pieces that are not read yet.
    Raises what huggingface_hub and its client raise."""
    check_online()
    utils = library().utils
    session, wait = utils.get_session(), timeout()
    headers = {
        **utils.build_hf_headers(),
        "Range": f"bytes={begin}-{end - 1}",
        "Accept-Encoding": "identity",
    }
    if _is_httpx(session):
        with session.stream("GET", url, headers=headers, timeout=wait) as response:
            if response.status_code >= 400:
                response.read()  # the error's text
            yield response, response.iter_raw(_PIECE)
    else:
        with session.get(url, headers=headers, timeout=wait, stream=True) as response:
            yield response, response.iter_content(_PIECE)


def _is_httpx(session: Any) -> bool:
    """Whether the client is one of httpx; before version 1 it was one of requests."""
    return callable(getattr(session, "stream", None))
