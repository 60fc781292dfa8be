"""Checkpoints that attack: what they declare is refused before it is read, each in well under a second."""

from __future__ import annotations

import io
import pickle
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inspector.core.errors import InspectError
from inspector.models import checkpoint
from inspector.models.specs import resolve
from inspector.models.weights import load_tensors

SECONDS = 3.0
"""Of this process alone: the machine may be busy."""
Change = Callable[[str, bytes], bytes]


def rewritten(file: Path, change: Change = lambda name, data: data, how: int = zipfile.ZIP_STORED) -> Path:
    """A file of torch.save({"a": four floats, "b": two}), its records changed."""
    whole = io.BytesIO()
    torch.save({"a": torch.arange(4.0), "b": torch.arange(2.0)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(file, "w", how) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename.partition("/")[2], old.read(entry)))
    return file


def of_pickle(file: Path, content: bytes) -> Path:
    return rewritten(file, lambda name, data: content if name == "data.pkl" else data)


def longer(name: str, data: bytes) -> bytes:
    """Storage 0 declares 6 elements of 4 bytes, one record more than its own 16 bytes."""
    return data.replace(b"cpuq\x06K\x04", b"cpuq\x06K\x06") if name == "data.pkl" else data


def bomb(file: Path) -> Path:
    """3 GB of zeros in 3 MB."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = deflate.compress(bytes(10_000_000)) + deflate.flush(zlib.Z_FULL_FLUSH)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("a/data/0", once * 300 + deflate.flush())
        archive.writestr("a/version", b"3\n")
        inflates = archive.getinfo("a/data/0")
        inflates.compress_type, inflates.file_size = zipfile.ZIP_DEFLATED, 3_000_000_000
    return file


def overlapping(file: Path) -> Path:
    """A hundred names of one record."""
    rewritten(file)
    with zipfile.ZipFile(file, "a") as archive:
        data = next(entry for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
        for number in range(100):
            entry = zipfile.ZipInfo(f"a/data/{number + 2}")
            entry.header_offset, entry.CRC = data.header_offset, 0
            entry.file_size = entry.compress_size = 4000
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
        archive._didModify = True  # type: ignore[attr-defined]
    return file


def laughs() -> bytes:
    """Ten lists, each holding the one before it ten times: 10**10 paths to one tensor's place."""
    value: Any = [torch.Size([1])]
    for _ in range(12):
        value = [value] * 10
    return pickle.dumps({"a": value}, 2)


def deep(levels: int) -> bytes:
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


OWN_LIST = b"\x80\x02]q\x00h\x00a."
"""A list that holds itself."""
MEMO = b"\x80\x02]r\xff\xff\xff\x7f."
"""An index of the memo at 2**31: the reader in C makes room for all before it."""
BYTES = b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R."
TENSOR = b"\x80\x02ctorch\nFloatTensor\nJ\xff\xff\xff\x7f\x85R."
"""Two gigabytes, or eight, asked for by a number."""


@pytest.fixture(scope="module")
def bombed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bomb")
    file = bomb(folder / "bomb.pth")
    assert file.stat().st_size < 3_200_000
    return file


@pytest.mark.parametrize("read", [checkpoint.read, load_tensors, resolve])
@pytest.mark.parametrize("suffix", [".pth", ".pt2"])
def test_what_inflates_a_thousandfold_is_refused_by_its_declared_size(
    bombed: Path, suffix: str, read: Any
) -> None:
    file = bombed.with_suffix(suffix)
    if not file.exists():
        file.hardlink_to(bombed)
    if read is not resolve and suffix == ".pt2":
        pytest.skip("no checkpoint")
    start = time.process_time()
    with pytest.raises(InspectError, match=r"declares 2\.794 GiB and has 2\.\d+ MiB"):  # 3e9 / 2**30
        read(str(file))
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("read", [checkpoint.read, load_tensors])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (overlapping, "declares"),
        # 6 x 4 bytes for a record of 4 x 4: torch 2.8 reads the next record, or what lies behind
        (lambda file: rewritten(file, longer), "storage 0 declares 24 bytes, and its record has 16"),
        (lambda file: rewritten(file, lambda n, d: d[:4] if n == "data/0" else d), "its record has 4"),
        (lambda file: of_pickle(file, laughs()), ""),
        (lambda file: of_pickle(file, deep(3)), "no tensors"),
        (lambda file: of_pickle(file, deep(100_000)), "deep"),
        (lambda file: of_pickle(file, OWN_LIST), "deep"),
        (lambda file: of_pickle(file, MEMO), "no tensors"),
        (lambda file: of_pickle(file, BYTES), "bytearray"),
        (lambda file: of_pickle(file, TENSOR), "FloatTensor"),
        (lambda file: of_pickle(file, b"\x80\x02" + b"(" * 1_000_000 + b"."), ""),
        (lambda file: of_pickle(file, b"\x80\x02\x8b\xff\xff\xff\x7f" + b"1" * 100 + b"."), ""),
        (lambda file: of_pickle(file, b"\x80\x02U\xff."), ""),
    ],
    ids="overlap longer shorter laughs nested deep itself memo bytes tensor marks number cut".split(),
)
def test_a_file_that_attacks_is_refused_in_one_line_and_at_once(
    tmp_path: Path, read: Any, make: Callable[[Path], Path], message: str
) -> None:
    file = make(tmp_path / "a.pth")
    start = time.process_time()
    with pytest.raises(InspectError) as caught:
        read(file)
    assert time.process_time() - start < SECONDS
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert "weights_only" not in caught.value.message


@pytest.mark.parametrize("read", [checkpoint.read, load_tensors])
def test_torchs_advice_to_run_what_is_in_a_file_is_never_passed_on(tmp_path: Path, read: Any) -> None:
    """For the archives of torch before 0.1.10, too, which are tar files."""
    (tmp_path / "pickle").write_bytes(pickle.dumps({}, 2))
    with tarfile.open(tmp_path / "a.pth", "w") as archive:
        for name in ("pickle", "storages", "tensors"):
            archive.add(tmp_path / "pickle", name)
    with pytest.raises(InspectError) as caught:
        read(tmp_path / "a.pth")
    assert "weights_only" not in f"{caught.value.message} {caught.value.hint}"


def test_a_tensor_under_ten_billion_paths_is_not_walked_to_the_end() -> None:
    value: Any = torch.zeros(1)
    for _ in range(10):
        value = [value] * 10
    start = time.process_time()
    with pytest.raises(InspectError, match="repeats itself"):
        sum(1 for _ in checkpoint.named_tensors(value))
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_that_declares_what_it_has_is_read(tmp_path: Path, how: int) -> None:
    """Also a small one that somebody compressed by hand."""
    tensors = load_tensors(rewritten(tmp_path / "a.pth", how=how))
    assert {name: value.tolist() for name, value in tensors.items()} == {
        "a": [0.0, 1.0, 2.0, 3.0], "b": [0.0, 1.0],
    }  # fmt: skip


def test_every_kind_of_storage_declares_its_own_size(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    state = {
        str(dtype): torch.zeros(3, dtype=dtype)
        for dtype in (
            torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int16, torch.bool,
            torch.float8_e4m3fn, torch.uint16,
        )
    }  # fmt: skip
    shared = torch.zeros(8)
    extra = {"q": quantised, "view": shared[2:4], "all": shared, "empty": torch.zeros(0), "n": {1: [b"x"]}}
    torch.save({**state, **extra}, tmp_path / "a.pth")
    assert len(load_tensors(tmp_path / "a.pth")) == len(state) + 4
    assert len(checkpoint.read(tmp_path / "a.pth")) >= len(state) + 3
