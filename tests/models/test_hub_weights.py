"""The tensors that a repository stores, by range requests for the headers alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("huggingface_hub")

from safetensors.numpy import save

import inspector
from inspector.core.errors import InspectError
from inspector.models.head import FIRST
from tests.small_hub import TOKEN, SmallHub

pytestmark = pytest.mark.once

A, B = {"a": np.zeros((3, 4), np.float32)}, {"b": np.zeros(5, np.float16), "c": np.zeros((), np.int64)}
BYTES = 12 * 4 + 5 * 2 + 8
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
MAP = {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]}


def sharded(**changes: Any) -> dict[str, Any]:
    index = {"metadata": {"total_size": BYTES}, "weight_map": MAP}
    return {SHARDS[0]: save(A), SHARDS[1]: save(B), INDEX: {**index, **changes}}


def refused(spec: str) -> InspectError:
    with pytest.raises(InspectError) as caught:
        inspector.params(spec)
    assert "\n" not in caught.value.message + (caught.value.hint or "\n")
    assert len(caught.value.message) < 400
    return caught.value


def status(spec: str, check: str) -> tuple[str, str]:
    (finding,) = [f for f in inspector.params(spec).findings if f.check == check]
    return finding.status, finding.message


def safetensors(header: Any, data: int = 0, length: int | None = None) -> bytes:
    """A file with this header, which may say another length of itself."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data)


def test_all_shards_of_an_index_are_listed(hub: SmallHub) -> None:
    commit = hub.add("org/net", sharded())
    report = inspector.params("hf:org/net")
    rows = report.to_frame().set_index("name")
    assert rows["shape"].to_dict() == {"a": "3x4", "b": "5", "c": "scalar"}
    assert rows["dtype"].to_dict() == {"a": "float32", "b": "float16", "c": "int64"}
    assert report.metrics["elements"].value == 12 + 5 + 1
    assert report.metrics["bytes"].value == BYTES == 66
    assert report.subject["name"] == f"org/net@{commit}"
    assert status("hf:org/net", "index") == ("pass", "3 tensors in 2 files with 66 bytes, as the index says")
    assert status("hf:org/net", "weights")[0] == "skip"  # no configuration to build a model from


def test_the_weights_are_not_read(hub: SmallHub) -> None:
    hub.add("org/net", {"model.safetensors": save({"a": np.zeros((1024, 1024), np.float32)})})
    inspector.params("hf:org/net")
    assert sum(request.sent for request in hub.requests if "/store/" in request.path) <= FIRST


def test_a_long_header_is_read_to_its_end(hub: SmallHub) -> None:
    # 4,000 tensors of one byte: about 300,000 bytes of header, more than the first request
    tensors = {f"{'x' * 10}{index}": np.zeros(1, np.int8) for index in range(4_000)}
    hub.add("org/net", {"model.safetensors": save(tensors)})
    assert inspector.params("hf:org/net").metrics["elements"].value == 4_000
    ranges = [r.range for r in hub.requests if "/store/" in r.path]
    assert ranges[0] == f"bytes=0-{FIRST - 1}"
    assert ranges[1].startswith(f"bytes={FIRST}-")
    assert len(ranges) == 2


def test_the_token_goes_to_the_hub_and_not_to_its_store(hub: SmallHub, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add("org/net", sharded(), gated=True)
    inspector.params("hf:org/net")
    tokens = {("/store/" in request.path, request.token) for request in hub.requests}
    assert tokens >= {(True, ""), (False, TOKEN)}
    assert (True, TOKEN) not in tokens


def test_a_store_without_ranges_is_left_when_there_is_enough(hub: SmallHub) -> None:
    hub.ranges = False
    hub.add("org/net", sharded())
    assert inspector.params("hf:org/net").metrics["bytes"].value == BYTES


@pytest.mark.parametrize(
    ("files", "spec", "expected"),
    [
        ({"model.safetensors": A, "model.fp16.safetensors": B}, "hf:org/net", ["a"]),
        ({"diffusion_pytorch_model.safetensors": A}, "hf:org/net", ["a"]),
        ({"unet/diffusion_pytorch_model.safetensors": A, "model.safetensors": B}, "hf:org/net/unet", ["a"]),
        ({"adapter_model.safetensors": A}, "hf:org/net", ["a"]),
        ({"x.safetensors": A, "y.safetensors": B}, "hf:org/net/x.safetensors", ["a"]),
        ({"sub/x.safetensors": A, "y.safetensors": B}, "hf:org/net/sub/x.safetensors@main", ["a"]),
    ],
)
def test_the_usual_names_and_the_named_file(
    hub: SmallHub, files: dict[str, Any], spec: str, expected: list[str]
) -> None:
    hub.add("org/net", {name: save(tensors) for name, tensors in files.items()})
    assert list(inspector.params(spec).to_frame()["name"]) == expected


def test_an_index_that_says_something_else_is_shown(hub: SmallHub) -> None:
    hub.add("org/size", sharded(metadata={"total_size": 1_000}))
    state, message = status("hf:org/size", "index")
    assert state == "warn"
    assert "1,000 bytes, and the headers 66" in message
    hub.add("org/less", sharded(weight_map={"a": SHARDS[0], "z": SHARDS[1]}))
    message = status("hf:org/less", "index")[1]
    assert "names 1 tensors that no file holds" in message
    assert "leaves out 2 tensors" in message


@pytest.mark.parametrize("metadata", [None, 5, [], {}, {"total_size": "many"}, {"total_size": -1}])
def test_an_index_without_totals_says_nothing_of_them(hub: SmallHub, metadata: Any) -> None:
    hub.add("org/net", sharded(metadata=metadata))
    assert status("hf:org/net", "index")[0] == "pass"


def test_offline_the_files_of_the_cache_are_read(hub: SmallHub, offline: Callable[[], None]) -> None:
    import huggingface_hub

    hub.add("org/net", sharded())
    for name in sharded():
        huggingface_hub.hf_hub_download("org/net", name, endpoint=hub.endpoint)
    offline()
    hub.requests.clear()
    assert inspector.params("hf:org/net").metrics["bytes"].value == BYTES
    assert hub.requests == []


def test_offline_a_file_that_was_never_fetched_is_named(hub: SmallHub, offline: Callable[[], None]) -> None:
    hub.add("org/net", sharded())
    inspector.params("hf:org/net")  # fetches the index
    import huggingface_hub

    huggingface_hub.hf_hub_download("org/net", INDEX, endpoint=hub.endpoint)
    offline()
    error = refused("hf:org/net")
    assert SHARDS[0] in error.message
    assert "not in the cache" in error.message


@pytest.mark.parametrize(
    ("name", "message"),
    [("../../../etc/passwd.safetensors", "no file beside it"), ("/etc/passwd", "no file beside it"),
     ("..\\x.safetensors", "no file beside it"), ("sub/x.safetensors", "no file beside it"),
     ("model.bin", "no file beside it"), ("", "no file beside it"), ("none.safetensors", "has no none"),
     (5, "no weight_map"), (None, "no weight_map")],
)  # fmt: skip
def test_shards_elsewhere_are_refused(hub: SmallHub, name: Any, message: str) -> None:
    hub.add("org/net", sharded(weight_map={"a": SHARDS[0], "b": name}))
    assert message in refused("hf:org/net").message
    assert not hub.asked("GET", ".safetensors")


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}', "[" * 99_999])
def test_an_index_that_is_none_is_refused(hub: SmallHub, index: str) -> None:
    hub.add("org/net", {INDEX: index, SHARDS[0]: save(A)})
    assert INDEX in refused("hf:org/net").message


def test_one_name_in_two_shards_is_refused(hub: SmallHub) -> None:
    hub.add("org/net", {SHARDS[0]: save(A), SHARDS[1]: save(A), INDEX: {"weight_map": MAP}})
    error = refused("hf:org/net")
    assert f"'a' stands in {SHARDS[0]} and in {SHARDS[1]}" in error.message


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE = {
    "empty": (b"", "0 bytes"),
    "seven bytes": (b"1234567", "7 bytes"),
    "a length of 2**63": (safetensors({}, length=2**63), "9,223,372,036,854,775,808 bytes does not fit"),
    "a length beyond the file": (safetensors({"a": entry()}, 8, 10_000), "does not fit"),
    "a page": (b"<!DOCTYPE html><html>" * 9, "does not fit"),
    "no JSON": (safetensors(b"{{{{"), "no JSON"),
    "bytes": (safetensors(b"\xff" * 9), "no JSON"),
    "nothing": (safetensors(b""), "no JSON"),
    "deep JSON": (safetensors(b'{"a":' * 50_000), "no JSON"),
    "a number of many digits": (safetensors(b"9" * 9_999), "no JSON"),
    "a list": (safetensors([]), "no JSON object"),
    "no tensors": (safetensors({}), "no tensors"),
    "a name twice": (
        safetensors(b'{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"a":{}}', 1), "twice"
    ),
    "no dtype": (safetensors({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8), "lacks"),
    "text for offsets": (safetensors({"a": entry(offsets="01")}, 8), "lacks"),
    "no object": (safetensors({"a": 5}, 8), "lacks"),
    "a negative dimension": (safetensors({"a": entry(shape=(-2, -1))}, 8), "cannot be"),
    "a huge dimension": (safetensors({"a": entry(shape=(2**63,))}, 8), "cannot be"),
    "a fraction": (safetensors({"a": entry(shape=(2.0,))}, 8), "cannot be"),
    "a truth": (safetensors({"a": entry(shape=(True, 2))}, 8), "cannot be"),
    "an unknown dtype": (safetensors({"a": entry("float32")}, 8), "cannot be"),
    "offsets backwards": (safetensors({"a": entry(offsets=(8, 0))}, 8), "cannot be"),
    "offsets of another size": (safetensors({"a": entry(offsets=(0, 4))}, 4), "another number of bytes"),
    "a product of 2**80": (safetensors({"a": entry(shape=(2**40, 2**40))}, 8), "another number of bytes"),
    "data beyond the file": (safetensors({"a": entry(shape=(200,), offsets=(0, 800))}, 8), "take 800 bytes"),
    "data after the tensors": (safetensors({"a": entry()}, 80), "take 8 bytes, and 80 follow"),
    "a gap": (safetensors({"a": entry(), "b": entry(offsets=(16, 24))}, 24), "overlaps"),
    "an overlap": (safetensors({"a": entry(), "b": entry(offsets=(4, 12))}, 12), "overlaps"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_one_line(hub: SmallHub, case: str) -> None:
    content, message = HOSTILE[case]
    hub.add("org/net", {"model.safetensors": content})
    error = refused("hf:org/net")
    assert message in error.message
    assert "model.safetensors of org/net is damaged" in error.message


@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        ({"README.md": "x"}, "has no safetensors and no GGUF files", "name another model"),
        ({"unet/x.safetensors": save(A)}, "has no safetensors", "hf:org/net/unet"),
        (
            {"x.safetensors": save(A), "y.safetensors": save(B)},
            "has 2 safetensors files",
            "hf:org/net/x.safe",
        ),
        ({"a.gguf": b"1", "b.gguf": b"1"}, "has 2 GGUF files: a.gguf, b.gguf", "name one: hf:org/net/a.gguf"),
        ({"a-00001-of-00002.gguf": b"1"}, "has no a-00002-of-00002.gguf", "name one file"),
    ],
)
def test_what_to_read_must_be_told(hub: SmallHub, files: dict[str, Any], message: str, hint: str) -> None:
    hub.add("org/net", files)
    error = refused("hf:org/net")
    assert message in error.message
    assert hint in (error.hint or "")


def test_a_folder_and_a_file_that_are_not_there(hub: SmallHub) -> None:
    hub.add("org/net", sharded())
    assert "is not there" in refused("hf:org/net/vae").message
    assert "is not there" in refused("hf:org/net/x.gguf").message
    hub.add("org/text", {"x.bin": b"1"})
    assert "no header that could be read" in refused("hf:org/text/x.bin").message


def test_a_transfer_that_breaks_off_is_told(hub: SmallHub) -> None:
    hub.add("org/net", sharded())
    hub.cut = 20
    assert refused("hf:org/net").hint


def test_a_transfer_that_takes_too_long_is_left(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inspector.models.head.DEADLINE", -1.0)  # over after the first piece
    hub.add("org/net", {"model.safetensors": save({"a": np.zeros(2**20, np.float32)})})
    assert "did not answer" in refused("hf:org/net").message


def test_a_built_model_of_another_size_is_told(hub: SmallHub) -> None:
    pytest.importorskip("transformers")
    config = {"model_type": "gpt2", "vocab_size": 10, "n_embd": 4, "n_positions": 3, "n_layer": 0}
    # 10 words and 3 positions of 4, a norm of 2 x 4
    hub.add("org/gpt", {"config.json": config, "model.safetensors": save(A)})
    state, message = status("hf:org/gpt", "weights")
    assert state == "warn"
    assert "60 parameters are built, and the hub's weights hold 12 elements" in message
    whole = {"wte": np.zeros((10, 4), np.float32), "wpe": np.zeros((3, 4), np.float32)}
    norm = {"w": np.zeros(4, np.float32), "b": np.zeros(4, np.float32)}
    hub.add("org/gpt", {"config.json": config, "model.safetensors": save({**whole, **norm})})
    assert status("hf:org/gpt", "weights") == ("pass", "60 parameters, as in the hub's weights (file header)")
