"""GGUF files, here and on the hub: quantised types, their bytes, and headers that lie."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

import inspector  # noqa: E402
from inspector.core.errors import InspectError  # noqa: E402
from inspector.models.gguf import FIRST, parts  # noqa: E402
from tests.small_hub import SmallHub  # noqa: E402

pytestmark = pytest.mark.once

# Bytes of a block and its elements, from ggml-common.h: block_q8_0 is a half scale and 32 int8; block_q4_0 a
# half and 32 nibbles; block_q5_1 two halves, 32 high bits and 32 nibbles; block_q4_K two halves, 12 bytes of
# scales and 256 nibbles; block_q6_K 256 nibbles, 256 high pairs of bits, 16 scales and a half; block_q2_K 16
# scales, 256 pairs of bits and two halves; block_mxfp4 an exponent and 32 nibbles.
BLOCKS = {
    "Q8_0": (32, 2 + 32), "Q4_0": (32, 2 + 16), "Q5_1": (32, 2 * 2 + 4 + 16),
    "Q4_K": (256, 2 * 2 + 12 + 128), "Q6_K": (256, 128 + 64 + 16 + 2), "Q2_K": (256, 16 + 64 + 2 * 2),
    "MXFP4": (32, 1 + 16),
}  # fmt: skip
ROWS, WIDTH = 3, 512


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A file of the package's own writer: one tensor of ROWS x WIDTH for each type, and a float32 bias."""

    def written(*types: str, name: str = "net.gguf", prefix: str = "", **said: Any) -> Path:
        writer = gguf.GGUFWriter(tmp_path / name, "llama")
        for key, value in said.items():
            getattr(writer, f"add_{key}")(value)
        for kind in types:
            elements, nbytes = BLOCKS[kind]
            data = np.zeros((ROWS, WIDTH // elements * nbytes), np.uint8)
            writer.add_tensor(f"{prefix}{kind}.weight", data, raw_dtype=gguf.GGMLQuantizationType[kind])
        writer.add_tensor(f"{prefix}bias", np.zeros(WIDTH, np.float32))
        writer.add_tensor(f"{prefix}half", np.zeros((2, 4), np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    return written


def refused(spec: Any) -> InspectError:
    with pytest.raises(InspectError) as caught:
        inspector.params(spec)
    assert "\n" not in caught.value.message + (caught.value.hint or "\n")
    assert len(caught.value.message) < 400
    return caught.value


def test_types_are_named_and_their_bytes_counted(write: Callable[..., Path]) -> None:
    report = inspector.params(write(*BLOCKS))
    rows = report.to_frame().set_index("name")
    for kind, (elements, nbytes) in BLOCKS.items():
        row = rows.loc[f"{kind}.weight"]
        assert (row["dtype"], row["shape"], row["numel"]) == (kind, "3x512", 1536)
        assert row["bytes"] == 1536 // elements * nbytes
    assert (rows.loc["bias", "dtype"], rows.loc["bias", "bytes"]) == ("float32", 4 * 512)
    assert (rows.loc["half", "dtype"], rows.loc["half", "shape"]) == ("float16", "2x4")


def test_bits_an_element_include_the_scales(write: Callable[..., Path]) -> None:
    report = inspector.params(write("Q8_0", "Q4_K"))
    bits = report.to_frame("kinds").set_index("dtype")["bits"]
    assert bits["Q8_0"] == 8.5  # 34 bytes for 32
    assert bits["Q4_K"] == 4.5  # 144 bytes for 256
    assert bits["float32"] == 32
    elements = 2 * 1536 + 512 + 8
    nbytes = 1536 // 32 * 34 + 1536 // 256 * 144 + 4 * 512 + 2 * 8
    assert report.metrics["elements"].value == elements
    assert report.metrics["bytes"].value == nbytes
    assert report.metrics["bits_per_element"].value == 8 * nbytes / elements


def test_what_the_file_says_of_itself_is_shown(write: Callable[..., Path]) -> None:
    file = write("Q4_K", name="a.gguf", context_length=8192, file_type=15)  # LLAMA_FTYPE_MOSTLY_Q4_K_M
    assert ("GGUF", "llama, Q4_K_M, context 8,192") in inspector.params(file).header
    assert ("GGUF", "llama") in inspector.params(write(name="b.gguf", file_type=999)).header


def test_it_agrees_with_the_reader_of_the_package(write: Callable[..., Path]) -> None:
    file = write(*BLOCKS, token_list=["a", "bb", "ccc"], token_scores=[0.0, 1.0, 2.0])
    theirs = {t.name: (t.tensor_type.name, t.n_elements, t.n_bytes) for t in gguf.GGUFReader(file).tensors}
    names = {"float32": "F32", "float16": "F16"}
    ours = {
        row["name"]: (names.get(row["dtype"], row["dtype"]), row["numel"], row["bytes"])
        for row in inspector.params(file).to_frame().to_dict("records")
    }
    assert ours == theirs


def test_a_big_endian_file_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("bias", np.zeros(6, np.float32))
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    assert inspector.params(tmp_path / "big.gguf").metrics["elements"].value == 6


# On the hub.


def test_on_the_hub_the_header_alone_is_read(hub: SmallHub, write: Callable[..., Path]) -> None:
    vocabulary = [f"token{index}" for index in range(60_000)]  # about 1.1 MB: more than the first request
    content = write("Q8_0", token_list=vocabulary).read_bytes() + bytes(2**22)
    commit = hub.add("org/ggufs", {"net.gguf": content, "README.md": "x"})
    report = inspector.params("hf:org/ggufs")
    assert report.subject["name"] == f"org/ggufs@{commit}"
    assert set(report.to_frame()["dtype"]) == {"Q8_0", "float32", "float16"}
    sent = [request.sent for request in hub.requests if "/store/" in request.path]
    assert len(sent) > 1
    assert sum(sent) <= 4 * FIRST < len(content)
    (finding,) = [f for f in report.findings if f.check == "weights"]
    assert finding.status == "skip"


def test_one_of_several_files_is_named_and_parts_are_joined(
    hub: SmallHub, write: Callable[..., Path]
) -> None:
    names = [f"big-0000{index}-of-00002.gguf" for index in (1, 2)]
    split = {name: write("Q8_0", name=name, prefix=f"{name}.").read_bytes() for name in names}
    hub.add("org/ggufs", {**split, "small.gguf": write("Q4_0").read_bytes()})
    assert "small.gguf" in refused("hf:org/ggufs").message
    assert inspector.params("hf:org/ggufs/small.gguf").metrics["tensors"].value == 3
    assert inspector.params(f"hf:org/ggufs/{names[0]}").metrics["tensors"].value == 6


def test_parts_on_this_machine_are_joined(write: Callable[..., Path], tmp_path: Path) -> None:
    first = write("Q8_0", name="big-00001-of-00002.gguf", prefix="1.")
    assert "no file at" in refused(first).message
    write("Q8_0", name="big-00002-of-00002.gguf", prefix="2.")
    assert inspector.params(first).metrics["tensors"].value == 6
    write("Q8_0", name="big-00002-of-00002.gguf", prefix="1.")
    assert "stands in" in refused(first).message


@pytest.mark.parametrize(
    "name", ["a.gguf", "a-00000-of-00002.gguf", "a-00003-of-00002.gguf", "a-00001-of-99999.gguf", "x.bin"]
)
def test_a_name_that_is_no_part_stands_for_itself(name: str) -> None:
    assert parts(name) == (name,)


# Headers that lie.


def text(value: str | bytes) -> bytes:
    content = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(content)) + content


def tensor(name: str = "a", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(
    tensors: list[bytes] = [],  # noqa: B006
    pairs: list[bytes] = [],  # noqa: B006
    data: int = 128,
    counts: tuple[int, int] | None = None,
    version: int = 3,
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs))))
    head += b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + content


HUGE = 2**63
HOSTILE = {
    "empty": (b"", "is empty"),
    "three bytes": (b"GGU", "ends beyond its 3"),
    "a page": (b"<!DOCTYPE html><html></html>", "does not begin with GGUF"),
    "the magic alone": (b"GGUF", "ends beyond its 4"),
    "version 1": (file(version=1), "version 1 of GGUF"),
    "version 99": (file(version=99), "version 99 of GGUF"),
    "2**63 tensors": (file(counts=(HUGE, 0)), "9,223,372,036,854,775,808 entries"),
    "2**63 pairs": (file(counts=(0, HUGE)), "9,223,372,036,854,775,808 entries"),
    "a key of 2**63 bytes": (file(pairs=[struct.pack("<Q", HUGE) + bytes(13)]), "do not fit"),
    "a value of 2**63 bytes": (file(pairs=[pair("k", 8, struct.pack("<Q", HUGE))]), "do not fit"),
    "an array of 2**63": (file(pairs=[pair("k", 9, array(4, HUGE))]), "do not fit"),
    "2**63 strings": (file(pairs=[pair("k", 9, array(8, HUGE))]), "do not fit"),
    "a string that is too long": (file(pairs=[pair("k", 9, array(8, 1, struct.pack("<Q", HUGE)))]), "beyond"),
    "arrays in arrays": (file(pairs=[pair("k", 9, array(9, 1) * 50)]), "is not known"),
    "an unknown value": (file(pairs=[pair("k", 77, b"1234")]), "a value of type 77"),
    "a key twice": (file(pairs=[pair("k", 4, b"1234")] * 2), "'k' stands in it twice"),
    "a key that is no text": (file(pairs=[text(b"\xff\xfe") + struct.pack("<I", 4) + b"1234"]), "is no text"),
    "no alignment": (file([tensor()], [pair("general.alignment", 4, bytes(4))]), "alignment 0"),
    "an alignment of 3": (file([tensor()], [pair("general.alignment", 4, b"\3\0\0\0")]), "power of two"),
    "text for alignment": (file([tensor()], [pair("general.alignment", 8, text("x"))]), "power of two"),
    "a tensor twice": (file([tensor(), tensor(offset=128)], data=256), "'a' stands in it twice"),
    "tensors in one place": (file([tensor(), tensor("b", offset=64)], data=256), "overlaps"),
    "data beyond the file": (file([tensor(shape=(1024,))]), "beyond its"),
    "an offset of 2**63": (file([tensor(offset=HUGE)]), "beyond its"),
    "a shape of 2**120": (file([tensor(shape=(2**60, 2**60))]), "beyond its"),
    "five dimensions": (file([tensor(shape=(1,) * 5)]), "5 dimensions"),
    "2**32 dimensions": (file([text("a") + b"\xff" * 4 + bytes(64)]), "4,294,967,295 dimensions"),
    "an unknown type": (file([tensor(kind=4242)]), "the type 4242"),
    "half a block": (file([tensor(shape=(33,), kind=8)]), "packs 32 together"),
    "no end": (file(counts=(3, 0), tensors=[tensor()], data=0), "do not fit"),
}  # fmt: skip


@pytest.mark.parametrize("place", ["here", "hub"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_one_line(hub: SmallHub, tmp_path: Path, case: str, place: str) -> None:
    content, message = HOSTILE[case]
    if place == "here":
        (tmp_path / "a.gguf").write_bytes(content)
        assert message in refused(tmp_path / "a.gguf").message
    elif content:
        hub.add("org/net", {"a.gguf": content})
        assert message in refused("hf:org/net").message
    else:
        hub.add("org/net", {"a.gguf": content})
        assert "damaged" in refused("hf:org/net").message


def test_wherever_a_file_is_cut_it_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    content = write("Q8_0", context_length=8, token_list=["a", "b"]).read_bytes()
    for length in range(1, len(content) - 32, 97):
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        refused(tmp_path / "cut.gguf")


def test_damaged_bytes_are_read_or_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    import contextlib
    import random

    content, draw = write("Q8_0", context_length=8, token_list=["a", "b"]).read_bytes(), random.Random(1)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[draw.randrange(600)] = draw.randrange(256)
        (tmp_path / "a.gguf").write_bytes(damaged)
        with contextlib.suppress(InspectError):
            inspector.params(tmp_path / "a.gguf")


def test_a_file_without_tensors_and_one_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "none.gguf").write_bytes(file())
    assert "no tensors" in refused(tmp_path / "none.gguf").message
    assert "no file at" in refused(tmp_path / "nowhere.gguf").message


def test_without_the_package_the_extra_is_named(write: Callable[..., Path], monkeypatch: Any) -> None:
    path = write("Q8_0")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    error = refused(path)
    assert error.message == "gguf is not installed"
    assert "pip install 'torch-inspector[gguf]'" in (error.hint or "")


def test_other_commands_say_what_the_file_is(write: Callable[..., Path], inspect: Any) -> None:
    path = write("Q8_0")
    for words in (["profile", path], ["memory", path], ["init", path, "--expect", "auto"]):
        code, out, err = inspect(*words)
        assert (code, out) == (2, "")
        assert "it holds weights, and no model that could run" in err
        assert f"inspect params {path}" in err
    assert "a checkpoint takes no --trust-remote-code" in inspect("params", path, "--trust-remote-code")[2]
    code, out, _ = inspect("params", path)
    assert code == 0
    assert "Q8_0" in out
    assert "8.50" in out
