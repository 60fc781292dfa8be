"""The beginning of a file, here or on the hub, read as far as it is asked for: headers without weights."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.models import hub, transport

FIRST = 2**17
"""Bytes of the first request: the header of most shards is shorter (huggingface_hub asks for 100,000)."""
DEADLINE = 60.0
"""Seconds that one request may take in all, however slowly its bytes come."""


class Head:
    """A file of `size` bytes called `name`, of which the first ones can be had."""

    name: str
    size: int

    def first(self, count: int) -> bytes:
        """The first `count` bytes, fewer where the file is shorter."""
        raise NotImplementedError


class FileHead(Head):
    """A file on this machine. Raises OSError."""

    def __init__(self, file: Path) -> None:
        self.name, self._file = str(file), file
        self.size = file.stat().st_size

    def first(self, count: int) -> bytes:
        with self._file.open("rb") as stream:
            return stream.read(min(count, self.size))


class HubHead(Head):
    """A file of a commit on the hub, by range requests. Raises InspectError."""

    def __init__(self, place: hub.Repository, file: str) -> None:
        self.name = f"{file} of {place.name}"
        self._place, self._file = place, file
        self._bytes = b""
        self.size = 0
        self._extend(FIRST)

    def first(self, count: int) -> bytes:
        if count > len(self._bytes) and len(self._bytes) < self.size:
            self._extend(count)
        return self._bytes[:count]

    def _extend(self, count: int) -> None:
        """Ask for the bytes up to `count` that are missing. A server that knows no ranges sends the file from
        its beginning, and is left when there is enough."""
        begin = len(self._bytes)
        url = transport.address(self._place.name, self._file, self._place.revision)
        try:
            with transport.streamed(url, begin, count) as (response, chunks):
                if response.status_code == 416 and begin == 0:  # an empty file has no first byte
                    return
                transport.library().utils.hf_raise_for_status(response)
                start, self.size = self._placed(response, begin)
                self._bytes = self._bytes[:start] + _taken(chunks, count - start)
        except InspectError:
            raise
        except Exception as error:  # of huggingface_hub or of the HTTP library below it
            raise hub.explained(error, self._place, self._file) from error
        if len(self._bytes) < min(count, self.size):
            raise InspectError(f"{self.name} broke off after {len(self._bytes):,} bytes", "try again")

    def _placed(self, response: Any, begin: int) -> tuple[int, int]:
        """Where the answer begins, and the size of the whole file."""
        if response.status_code == 206:
            told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip())
            if told is None or int(told[1]) != begin:
                raise InspectError(f"{self.name} came with a wrong Content-Range", "check HF_ENDPOINT")
            return begin, int(told[2])
        length = response.headers.get("Content-Length", "")
        if not length.isdigit():
            raise InspectError(f"the size of {self.name} is not told", "check HF_ENDPOINT")
        return 0, int(length)


def _taken(chunks: Iterator[bytes], count: int) -> bytes:
    """Up to `count` bytes. Raises TimeoutError where they take longer than DEADLINE."""
    parts, length, end = list[bytes](), 0, time.monotonic() + DEADLINE
    for chunk in chunks:
        parts.append(chunk)
        length += len(chunk)
        if length >= count:
            break
        if time.monotonic() > end:
            raise TimeoutError
    return b"".join(parts)[:count]


def of_hub(place: hub.Repository, file: str) -> Head:
    """The file of a commit, from the cache where it is there already."""
    kept = hub.cached(place, file)
    return FileHead(kept) if kept is not None else HubHead(place, file)
