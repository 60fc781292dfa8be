"""Checkpoint files: what is in them, without loading it, and every way in which they are broken."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import inspector
from inspector.core.errors import InspectError
from inspector.models.checkpoint import read
from inspector.models.header import is_checkpoint

STATE = {"a": torch.zeros(3), "b.weight": torch.ones(2, 2, dtype=torch.float16), "n": torch.tensor(7)}
EXPECTED = {"a": ((3,), "float32", 12), "b.weight": ((2, 2), "float16", 8), "n": ((), "int64", 8)}
"""Shape, dtype and bytes: 3 x 4, 4 x 2 and 1 x 8."""

Write = Callable[..., Path]


def found(path: Path) -> dict[str, Any]:
    return {entry.name: (entry.shape, entry.dtype, entry.nbytes) for entry in read(path)}


def refused(path: Path) -> InspectError:
    with pytest.raises(InspectError) as caught:
        read(path)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a .safetensors file by hand: eight bytes of length, the header, the data."""

    def make(header: Any, data: bytes = b"", length: int | None = None) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        file = tmp_path / "made.safetensors"
        file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
        return file

    return make


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.ckpt", "a.safetensors", "A.PTH", "a.pth.tar"])
def test_a_checkpoint_is_known_by_its_suffix(name: str) -> None:
    assert is_checkpoint(name)


@pytest.mark.parametrize("name", ["resnet50", "net.py:build", "timm:resnet18", "a.pth:x"])
def test_a_model_is_not_taken_for_a_checkpoint(name: str) -> None:
    assert not is_checkpoint(name)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_listed_in_the_new_and_in_the_legacy_format(tmp_path: Path, zipped: bool) -> None:
    torch.save(STATE, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert found(tmp_path / "a.pth") == EXPECTED


def test_a_safetensors_file_of_the_library_is_listed(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(STATE, tmp_path / "a.safetensors", {"format": "pt"})
    assert found(tmp_path / "a.safetensors") == EXPECTED


def test_a_nested_checkpoint_is_listed_with_dotted_paths(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    step = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(2)).sum().backward()
    step.step()
    content = {"epoch": 3, "model": layer.state_dict(), "optim": step.state_dict(), "rest": [torch.zeros(1)]}
    torch.save(content, tmp_path / "a.ckpt")
    assert set(found(tmp_path / "a.ckpt")) == {
        "model.weight", "model.bias", "rest.0",
        "optim.state.0.momentum_buffer", "optim.state.1.momentum_buffer",
    }  # fmt: skip


def test_tied_tensors_of_a_checkpoint_are_counted_once(tmp_path: Path) -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 2), "head": nn.Linear(2, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    torch.save(model.state_dict(), tmp_path / "a.pth")
    (entry,) = read(tmp_path / "a.pth")
    assert (entry.name, entry.aliases, entry.numel) == ("embed.weight", ("head.weight",), 10)


def test_a_saved_parameter_is_a_tensor_like_any_other(tmp_path: Path) -> None:
    torch.save({"w": nn.Parameter(torch.zeros(2))}, tmp_path / "a.pth")
    (entry,) = read(tmp_path / "a.pth")
    assert (entry.kind, entry.trainable) == ("tensor", False)


class Legal:
    """Nothing harmful, but code all the same."""


@pytest.mark.parametrize(
    "content", [nn.Linear(2, 2), Legal(), {"net": Legal()}], ids=["model", "object", "nested"]
)
def test_a_pickle_that_needs_code_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pth")
    error = refused(tmp_path / "a.pth")
    assert "run code" in error.message
    assert "state_dict()" in (error.hint or "")


def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    for zipped in (True, False):
        torch.save({"w": Evil()}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        refused(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Evil()))
    refused(tmp_path / "b.pth")
    assert not mark.exists()


def test_torchscript_is_called_a_program_and_not_damaged(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "a.pt"))
    assert "TorchScript" in refused(tmp_path / "a.pt").message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0", b"\0" * 100, b"hello world\n", b"<!DOCTYPE html><html>404</html>", b"PK\x03\x04",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"\x80\x02.", b"\xff" * 64,
        pickle.dumps({"a": 1}),
    ],
)  # fmt: skip
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(content)
    assert str(file) in refused(file).message


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_pth_is_refused_wherever_it_was_cut(tmp_path: Path, zipped: bool) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(STATE, whole, _use_new_zipfile_serialization=zipped)
    content = whole.read_bytes()
    for length in range(1, len(content) - 8, max(1, len(content) // 40)):
        (tmp_path / "a.pth").write_bytes(content[:length])
        refused(tmp_path / "a.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_are_read_or_refused_and_never_crash(tmp_path: Path, zipped: bool) -> None:
    torch.save(STATE, tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped)
    content, draw = (tmp_path / "whole.pth").read_bytes(), random.Random(1)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] = draw.randrange(256)
        (tmp_path / "a.pth").write_bytes(damaged)
        with contextlib.suppress(InspectError):
            read(tmp_path / "a.pth")


def test_a_file_without_tensors_says_so(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    assert "no tensors" in refused(tmp_path / "a.pth").message


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.pth").mkdir()
    for name in ("nowhere.pth", "nowhere.safetensors", "d.pth"):
        assert "no file" in refused(tmp_path / name).message


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


def test_the_values_of_a_safetensors_file_are_not_read(write: Write) -> None:
    # GIVEN a header that names 2^42 bytes, and a sparse file of that length
    file = write(entry([2**40], 0, 2**42))
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size + 2**42)
    # THEN the listing knows all of it and reads none
    assert found(file) == {"a": ((2**40,), "float32", 2**42)}


def test_the_values_of_a_pth_file_are_not_read(tmp_path: Path, monkeypatch: Any) -> None:
    torch.save(STATE, tmp_path / "a.pth")

    def fail(*_: Any) -> None:
        raise AssertionError("a storage was read")

    monkeypatch.setattr(torch._C.PyTorchFileReader, "get_storage_from_record", fail)
    assert found(tmp_path / "a.pth") == EXPECTED


def test_the_metadata_of_a_safetensors_file_is_no_tensor(write: Write) -> None:
    assert found(write({"__metadata__": {"x": "y"}, **entry([], 0, 4)}, b"\0" * 4)) == {
        "a": ((), "float32", 4)
    }


@pytest.mark.parametrize(
    ("code", "name", "nbytes"),
    [
        ("F64", "float64", 8), ("F32", "float32", 4), ("F16", "float16", 2), ("BF16", "bfloat16", 2),
        ("I64", "int64", 8), ("I32", "int32", 4), ("I16", "int16", 2), ("I8", "int8", 1),
        ("U8", "uint8", 1), ("U16", "uint16", 2), ("U32", "uint32", 4), ("U64", "uint64", 8),
        ("BOOL", "bool", 1), ("C64", "complex64", 8), ("F8_E4M3", "float8_e4m3fn", 1),
        ("F8_E5M2", "float8_e5m2", 1),
    ],
)  # fmt: skip
def test_every_dtype_of_safetensors_is_known(write: Write, code: str, name: str, nbytes: int) -> None:
    file = write(entry([1], 0, nbytes, code), b"\0" * nbytes)
    assert found(file) == {"a": ((1,), name, nbytes)}


def test_a_dtype_of_the_future_keeps_its_code(write: Write) -> None:
    assert found(write(entry([2], 0, 1, "F4"), b"\0")) == {"a": ((2,), "F4", 1)}


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b"[" * 100_000, {"a": 5}, {"a": {}},
        entry([3], 0, 12, 5), entry([3], 0, 12, [1]), entry("abc", 0, 12), entry([3], "0", "12"),
        entry([3], 12, 0), entry([3], -12, 0), entry([-3], 0, 12), entry([3], 0, 8), entry([3], 0, 16),
        entry([3], 4, 16), entry(None, 0, 12), {"a": {"dtype": "F32", "shape": [3], "data_offsets": []}},
    ],
)  # fmt: skip
def test_a_header_that_contradicts_itself_or_the_file_is_refused(write: Write, header: Any) -> None:
    # Twelve bytes of data: three float32.
    assert "damaged" in refused(write(header, b"\0" * 12)).message


def test_a_header_longer_than_the_file_is_refused(write: Write) -> None:
    assert "truncated" in refused(write({}, length=2**63)).message
    assert "truncated" in refused(write({}, length=3)).message


def test_a_header_beyond_the_limit_of_the_format_is_not_read(write: Write) -> None:
    # GIVEN a sparse file whose header claims 64 GiB
    file = write(b"", length=2**36)
    with file.open("r+b") as stream:
        stream.truncate(2**36 + 8)
    assert "damaged" in refused(file).message


def test_truncated_data_are_noticed_from_the_header(write: Write) -> None:
    assert "truncated" in refused(write(entry([3], 0, 12), b"\0" * 11)).message


def test_an_empty_safetensors_file_has_no_tensors(write: Write) -> None:
    assert "no tensors" in refused(write({})).message


def test_the_report_of_a_checkpoint_does_not_claim_parameters(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pth")
    report = inspector.params(tmp_path / "a.pth")
    assert {name: metric.value for name, metric in report.metrics.items()} == {
        "tensors": 3, "elements": 3 + 4 + 1, "bytes": 12 + 8 + 8,
    }  # fmt: skip
    assert any("which tensors are parameters" in finding.message for finding in report.findings)
    assert set(report.to_frame()["kind"]) == {"tensor"}


def test_the_command_line_reads_and_refuses_checkpoints(tmp_path: Path, inspect: Any) -> None:
    torch.save(STATE, tmp_path / "a.pth")
    code, out, err = inspect("params", str(tmp_path / "a.pth"), "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["metrics"]["elements"]["value"] == 8
    (tmp_path / "a.pth").write_bytes(b"")
    code, out, err = inspect("params", str(tmp_path / "a.pth"))
    assert (code, out) == (2, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["error", "hint"]
    assert inspect("params", str(tmp_path / "a.pth"), "--model-arg", "a=1")[0] == 2
