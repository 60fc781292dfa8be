"""Repositories of the Hugging Face hub: what a spec names there, which files there are, and the small ones.

All goes through `huggingface_hub`: its cache, its tokens, `HF_ENDPOINT`, `HF_HUB_OFFLINE`. Each file is asked
for once (`transport`) before that library downloads it, because it tries again for minutes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from inspector.core.errors import InspectError, first_line
from inspector.models import transport
from inspector.models.transport import endpoint, library, timeout
from inspector.reporting.numbers import size

LARGEST = 2**26
"""Bytes that a configuration, an index or a file of code may have: the index of 90,000 tensors has 9 MB."""
LONGEST_NAME = 96
"""Characters of ORG/NAME; `--` and `..` are not allowed there either (huggingface_hub, validate_repo_id)."""
_NAME = re.compile(r"\w[\w.-]*")
_GRAMMAR = "write hf:ORG/NAME, with /FOLDER or /FILE behind it where it has several, then @REVISION"


@dataclass(frozen=True)
class Repository:
    """What `ORG/NAME/PATH@REVISION` names; `path` is a folder or a file inside, "" for the root."""

    name: str
    path: str = ""
    revision: str = "main"

    def file(self, name: str) -> str:
        """The path of a file in the folder of the spec."""
        return f"{self.path}/{name}" if self.path else name

    def at(self, commit: str) -> Repository:
        return replace(self, revision=commit)

    def __str__(self) -> str:
        place = f"{self.name}/{self.path}" if self.path else self.name
        return f"{place}@{self.revision}"


@dataclass(frozen=True)
class Fetched:
    """A file in the cache: where it lies, of which commit it is, and why the hub was not asked ("")."""

    file: Path
    commit: str
    note: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of one commit, by their paths; those of the cache alone where the hub was not asked."""

    commit: str
    files: tuple[str, ...]
    note: str = ""


def repository(name: str) -> Repository | None:
    """The repository that `name` means, None where it means a path on this machine: what exists here, begins
    with `.`, `/` or `~`, ends with `.json`, or has one part. Raises InspectError for what is neither."""
    left, at, revision = name.partition("@")
    parts = left.split("/")
    local = name.startswith((".", "/", "~")) or "\\" in name or name.lower().endswith(".json")
    if local or os.path.exists(name) or len(parts) < 2:
        return None
    wrong = any(mark in left for mark in ("--", "..")) or len("/".join(parts[:2])) > LONGEST_NAME
    if (
        wrong
        or not all(map(_NAME.fullmatch, parts))
        or (at and not revision)
        or set(revision) & set(" \t\n?#")
    ):
        raise InspectError(f"hf:{name[:100]} names no model of the hub", _GRAMMAR)
    return Repository("/".join(parts[:2]), "/".join(parts[2:]), revision or "main")


def fetch(place: Repository, file: str) -> Fetched:
    """The file of the repository at its revision, in the cache of huggingface_hub. Where the hub cannot be
    reached, the one that is there already. Raises InspectError; MissingFile where the hub has none."""
    hub = library()
    if (kept := cached(place, file)) and _is_commit(place.revision):
        return Fetched(kept, place.revision)
    try:
        commit, nbytes = transport.described(transport.address(place.name, file, place.revision))
        if commit is None:
            raise _no_hub()
        if nbytes is not None and nbytes > LARGEST:
            raise InspectError(f"{place}: {file} has {size(nbytes)}, too much for one", "name another model")
        with _quiet(hub):
            kept_at = hub.hf_hub_download(place.name, file, revision=place.revision, endpoint=endpoint())
        path = Path(kept_at)
        return Fetched(path, _commit(path, file))
    except InspectError:
        raise
    except Exception as error:  # of huggingface_hub, of the HTTP library below it, or of the file system
        problem = explained(error, place, file)
        if kept is None or isinstance(problem, MissingFile | MissingRevision):
            raise problem from error
        return Fetched(kept, _commit(kept, file), _why_cached(problem))


def cached(place: Repository, file: str) -> Path | None:
    """The file in the cache, at the revision as it was last seen."""
    hub = library()
    try:
        kept = hub.try_to_load_from_cache(place.name, file, revision=place.revision)
    except (OSError, ValueError):
        return None
    return Path(kept) if isinstance(kept, str) else None


def listing(place: Repository) -> Listing:
    """The files of the repository at its revision. Raises InspectError."""
    hub = library()
    try:
        transport.check_online()
        info = hub.HfApi(endpoint()).model_info(place.name, revision=place.revision, timeout=timeout())
        if not isinstance(info.sha, str) or info.siblings is None:
            raise _no_hub()
        return Listing(info.sha, tuple(entry.rfilename for entry in info.siblings))
    except InspectError:
        raise
    except Exception as error:
        problem = explained(error, place)
        kept = _snapshot(hub, place)
        if kept is None or isinstance(problem, MissingRevision):
            raise problem from error
        files = tuple(p.relative_to(kept).as_posix() for p in sorted(kept.rglob("*")) if p.is_file())
        return Listing(kept.name, files, _why_cached(problem))


def _why_cached(problem: InspectError) -> str:
    reason = "HF_HUB_OFFLINE is set" if isinstance(problem, Offline) else problem.message
    return f"read from the cache, not from the hub: {reason}"


def _snapshot(hub: Any, place: Repository) -> Path | None:
    """The folder of the revision in the cache, whole or not."""
    try:
        return Path(hub.snapshot_download(place.name, revision=place.revision, local_files_only=True))
    except Exception as error:
        folder = getattr(error, "snapshot_path", None)  # newer versions refuse a folder that is not whole
        return Path(folder) if folder else None


def _is_commit(revision: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def _commit(path: Path, file: str) -> str:
    """snapshots/COMMIT/FILE."""
    return path.parents[len(PurePosixPath(file).parts) - 1].name


@contextmanager
def _quiet(hub: Any) -> Iterator[None]:
    """No bars for files that are there at once."""
    were_off = hub.utils.are_progress_bars_disabled()
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            hub.utils.enable_progress_bars()


# What went wrong, in one line.


class MissingFile(InspectError):
    """The repository is there, and the file is not."""


class Offline(InspectError):
    """It is not in the cache, and the hub must not be asked."""


class MissingRevision(InspectError):
    """The repository is there, and the revision is not."""


_LOG_IN = "log in with: hf auth login, or set HF_TOKEN"
_OFFLINE = ("OfflineModeIsEnabled", "LocalEntryNotFoundError")
_LATE = ("TimeoutException", "Timeout", "TimeoutError")
_UNREACHED = (
    "ConnectError", "ConnectionError", "NetworkError", "ProxyError", "ProtocolError", "TransportError",
    "ChunkedEncodingError", "TooManyRedirects",
)  # fmt: skip
_NO_HUB = (
    "FileMetadataError", "JSONDecodeError", "InvalidSchema", "InvalidURL", "MissingSchema",
    "UnsupportedProtocol", "TypeError", "KeyError", "ValueError", "DecodingError",
)  # fmt: skip
"""Names of exception classes of huggingface_hub, httpx and requests: which of the two there is depends on the
version."""


def explained(error: BaseException, place: Repository, file: str = "") -> InspectError:
    """An error of huggingface_hub, or of what it stands on, as one line and a hint."""
    kinds = {kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__}
    own = {kind.__name__ for kind in type(error).__mro__}
    where, name = endpoint(), place.name
    if "GatedRepoError" in own:
        return InspectError(f"{name} is gated", f"accept its terms at {where}/{name}, then {_LOG_IN}")
    if "DisabledRepoError" in own:
        return InspectError(f"{name} is disabled on the hub", "name another model")
    if "RevisionNotFoundError" in own:
        return MissingRevision(
            f"{name} has no revision {place.revision!r}", "name a branch, tag or commit: @main"
        )
    if "EntryNotFoundError" in own and not own & set(_OFFLINE):
        return MissingFile(f"{place} has no {file}", f"see its files at {where}/{name}")
    status = _status(error)
    if "RepositoryNotFoundError" in own:
        return InspectError(f"the hub has no model {name}, or it is private", f"check the name, or {_LOG_IN}")
    if status in (401, 403):
        return InspectError(
            f"the hub refuses access to {name} (HTTP {status})", f"check the token: {_LOG_IN}"
        )
    if status == 429:
        return InspectError("the hub refuses for now: too many requests (HTTP 429)", f"wait, or {_LOG_IN}")
    if status is not None and status >= 400:
        hint = "try again later" if status >= 500 else "check the name and HF_ENDPOINT"
        return InspectError(f"{where} answers {name} with HTTP {status}", hint)
    if "OfflineModeIsEnabled" in kinds:
        what = f"{file} of {name}" if file else name
        return Offline(f"{what} is not in the cache, and HF_HUB_OFFLINE is set", "unset it, and run once")
    if kinds & set(_LATE):
        return InspectError(
            f"{where} did not answer within {timeout():g} s", "try again, or set HF_HUB_ETAG_TIMEOUT"
        )
    if kinds & set(_UNREACHED) or "LocalEntryNotFoundError" in own:
        return InspectError(f"cannot reach {where}: {_brief(error)}", "check the network and HF_ENDPOINT")
    if "HFValidationError" in own:
        return InspectError(f"hf:{name} names no model of the hub: {_brief(error)}", _GRAMMAR)
    if kinds & set(_NO_HUB):
        return _no_hub()
    if isinstance(error, OSError):
        return InspectError(f"the hub's cache cannot be written: {_brief(error)}", "set HF_HOME to a folder")
    return InspectError(f"cannot read {place}: {type(error).__name__}: {_brief(error)}", "try again")


def _no_hub() -> InspectError:
    return InspectError(f"{endpoint()} does not answer as a hub does", "check HF_ENDPOINT")


def _brief(error: BaseException) -> str:
    """The beginning of a message: those of requests tell the whole story of a connection."""
    return first_line(error)[:120]


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries."""
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def page(place: Repository) -> str:
    """Where people see the repository."""
    return f"{endpoint()}/{place.name}"


def content(fetched: Fetched, name: str) -> Any:
    """The JSON of a fetched file. Raises InspectError."""
    try:
        return json.loads(fetched.file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InspectError(f"{name} is no JSON", "name another model, or remove it from the cache") from error
