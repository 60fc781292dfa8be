"""Models of the hub by their configuration alone, and what the hub says of their weights."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import inspector
from inspector.core.errors import InspectError
from inspector.models import resolve
from inspector.models.hub import LARGEST, repository
from tests.small_hub import TOKEN, SmallHub, point

pytestmark = pytest.mark.once

BERT = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 50, "hidden_size": 8,
    "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 32, "dtype": "float32",
}  # fmt: skip
# Embeddings of 50 words, 32 positions and 2 types, their norm; four square projections with bias, two of
# the MLP with theirs, two norms; the pooler.
EMBEDDED, ATTENTION, MLP, POOLER = (50 + 32 + 2 + 2) * 8, 4 * (64 + 8) + 16, 2 * 128 + 16 + 8 + 16, 64 + 8
PARAMS = EMBEDDED + ATTENTION + MLP + POOLER
assert PARAMS == 1360
INDEX = "model.safetensors.index.json"


def weights_finding(spec: str, **options: Any) -> tuple[str, str]:
    (finding,) = [f for f in inspector.params(spec, **options).findings if f.check == "weights"]
    return finding.status, finding.message


def profiled(spec: str) -> tuple[str, str]:
    (finding,) = [f for f in inspector.profile(spec).findings if f.check == "weights"]
    return finding.status, finding.message


def index(**metadata: Any) -> dict[str, Any]:
    return {"metadata": metadata, "weight_map": {"a": "model-00001-of-00001.safetensors"}}


def refused(spec: str) -> InspectError:
    with pytest.raises(InspectError) as caught:
        resolve(spec).build("meta")
    assert "\n" not in caught.value.message + (caught.value.hint or "\n")
    assert len(caught.value.message) < 300
    return caught.value


def test_the_configuration_alone_is_fetched_and_the_commit_is_named(hub: SmallHub) -> None:
    commit = hub.add("org/bert", {"config.json": BERT, INDEX: index(total_size=4 * PARAMS)})
    report = inspector.profile("hf:org/bert")
    assert report.subject["name"] == f"org/bert@{commit}"
    assert report.subject["source"] == "huggingface"
    assert report.metrics["params"].value == PARAMS
    fetched = {request.path.rpartition("/")[2] for request in hub.requests if request.method == "GET"}
    assert fetched - {"agent-harnesses"} == {"config.json", INDEX}


@pytest.mark.parametrize("revision", ["main", "v1", "commit"])
def test_a_branch_a_tag_and_a_commit_are_revisions(hub: SmallHub, revision: str) -> None:
    first = hub.add("org/bert", {"config.json": BERT})
    hub.repos["org/bert"].branches["v1"] = first
    second = hub.add("org/bert", {"config.json": {**BERT, "vocab_size": 60}})
    name = first if revision == "commit" else revision
    recipe = resolve(f"hf:org/bert@{name}")
    assert recipe.name == f"org/bert@{second if revision == 'main' else first}"
    words = recipe.build("meta").get_submodule("embeddings.word_embeddings").weight.shape[0]
    assert words == (60 if revision == "main" else 50)


def test_a_repository_that_was_renamed_is_followed(hub: SmallHub) -> None:
    commit = hub.add("org/bert", {"config.json": BERT, INDEX: index(total_parameters=PARAMS)})
    hub.renamed["bert/old"] = "org/bert"
    report = inspector.profile("hf:bert/old")
    assert report.subject["name"] == f"bert/old@{commit}"
    assert [f.status for f in report.findings if f.check == "weights"] == ["pass"]


def test_a_second_time_the_cache_answers_for_a_commit(hub: SmallHub) -> None:
    commit = hub.add("org/bert", {"config.json": BERT})
    resolve("hf:org/bert")
    hub.requests.clear()
    resolve(f"hf:org/bert@{commit}")
    assert hub.requests == []


def test_a_folder_of_that_name_comes_before_the_hub(
    hub: SmallHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    (tmp_path / "org" / "bert").mkdir(parents=True)
    (tmp_path / "org" / "bert" / "config.json").write_text(json.dumps(BERT))
    monkeypatch.chdir(tmp_path)
    assert resolve("hf:org/bert").name == "org/bert"
    assert hub.requests == []


def test_model_arguments_change_it_and_are_not_held_against_the_hub(hub: SmallHub) -> None:
    hub.add("org/bert", {"config.json": BERT, INDEX: index(total_parameters=PARAMS)})
    report = inspector.profile("hf:org/bert", model_args={"num_hidden_layers": 2})
    assert report.metrics["params"].value == PARAMS + ATTENTION + MLP
    assert not [f for f in report.findings if f.check == "weights"]
    report = inspector.params("hf:org/bert", model_args={"num_hidden_layers": 2})
    assert report.metrics["params"].value == PARAMS + ATTENTION + MLP


# Totals.


def test_total_parameters_of_the_index_agree_or_both_numbers_are_shown(hub: SmallHub) -> None:
    hub.add("org/same", {"config.json": BERT, INDEX: index(total_parameters=PARAMS, total_size=1)})
    assert profiled("hf:org/same") == (
        "pass",
        "1,360 parameters, as in the hub's weights (safetensors index)",
    )
    hub.add("org/other", {"config.json": BERT, INDEX: index(total_parameters=9_999)})
    status, message = profiled("hf:org/other")
    assert status == "warn"
    assert "1,360" in message
    assert "9,999" in message


def test_total_size_is_read_in_the_dtype_of_the_configuration(hub: SmallHub) -> None:
    half = {**BERT, "dtype": "bfloat16"}
    hub.add("org/half", {"config.json": half, INDEX: index(total_size=2 * PARAMS)})
    assert profiled("hf:org/half")[0] == "pass"
    assert not hub.asked("GET", ".safetensors")


def test_persistent_buffers_in_the_files_are_told_apart(hub: SmallHub) -> None:
    # A batch norm's statistics: 8 channels, mean and variance, and one counter of int64.
    import torch
    from torch import nn

    from inspector.models.stored import Total, compared
    from inspector.tracing.capture.state import state_entries

    entries = state_entries(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)))
    params = 4 * 8 + 8 + 2 * 8
    with_buffers = Total(params + 2 * 8 + 1, None, "index")
    assert compared(with_buffers, {}, entries).status == "pass"
    assert "with buffers" in compared(with_buffers, {}, entries).message
    sized = Total(None, 2 * (params + 16) + 8, "index")
    assert compared(sized, {"dtype": "float16"}, entries).status == "pass"
    assert compared(sized, {"torch_dtype": "float32"}, entries).status == "warn"
    assert compared(sized, {}, entries).status == "warn"
    tied = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
    tied[1].weight = tied[0].weight
    assert torch.equal(tied[0].weight, tied[1].weight)
    assert compared(Total(18, None, "index"), {}, state_entries(tied)).status == "pass"
    assert compared(Total(27, None, "index"), {}, state_entries(tied)).status == "warn"


def test_without_weights_on_the_hub_the_reason_stands_there(hub: SmallHub) -> None:
    hub.add("org/bare", {"config.json": BERT, "pytorch_model.bin": b"1"})
    status, message = profiled("hf:org/bare")
    assert (status, "no safetensors" in message) == ("skip", True)
    # params has no header to read, and lists the model that is built
    report = inspector.params("hf:org/bare")
    assert report.metrics["params"].value == PARAMS


# Offline.


def test_offline_the_cache_answers_and_the_report_says_so(hub: SmallHub, offline: Callable[[], None]) -> None:
    commit = hub.add("org/bert", {"config.json": BERT, INDEX: index(total_parameters=PARAMS)})
    inspector.profile("hf:org/bert")
    hub.requests.clear()
    offline()
    report = inspector.profile("hf:org/bert")
    assert report.subject["name"] == f"org/bert@{commit}"
    assert hub.requests == []
    notes = [f.message for f in report.findings if f.check == "provenance"]
    assert any("from the cache" in note and "HF_HUB_OFFLINE" in note for note in notes)
    assert [f.status for f in report.findings if f.check == "weights"] == ["pass"]


def test_offline_without_the_cache_is_an_error(hub: SmallHub, offline: Callable[[], None]) -> None:
    hub.add("org/bert", {"config.json": BERT})
    offline()
    error = refused("hf:org/bert")
    assert error.message == "config.json of org/bert is not in the cache, and HF_HUB_OFFLINE is set"
    with pytest.raises(InspectError, match="HF_HUB_OFFLINE is set"):
        inspector.params("hf:org/bert")


def test_a_hub_that_is_gone_is_replaced_by_the_cache(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/bert", {"config.json": BERT})
    resolve("hf:org/bert")
    hub.status = 503
    (note,) = resolve("hf:org/bert").notes
    assert "from the cache" in note
    assert "503" in note


# What can go wrong.


def test_a_gated_repository_needs_a_token(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/gated", {"config.json": BERT}, gated=True)
    error = refused("hf:org/gated")
    assert error.message == "org/gated is gated"
    assert "HF_TOKEN" in (error.hint or "")
    monkeypatch.setenv("HF_TOKEN", "hf_another")  # answered with 403
    assert refused("hf:org/gated").message == "org/gated is gated"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert resolve("hf:org/gated").name.startswith("org/gated@")


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("hf:org/nowhere", "the hub has no model org/nowhere", "HF_TOKEN"),
        ("hf:org/bert@v9", "org/bert has no revision 'v9'", "branch"),
        ("hf:org/bert@" + "0" * 40, "has no revision '0000", "commit"),
        ("hf:org/bert/unet", "org/bert/unet@main is not there", "see its files"),
        ("hf:org/empty", "org/empty@main has no config.json", "see its files"),
        ("hf:org/pipe", "org/pipe is a pipeline", "hf:org/pipe/unet, hf:org/pipe/vae"),
        ("hf:org/ggufs", "has GGUF files, and no config.json", "inspect params hf:org/ggufs"),
        ("hf:org/deeper", "has no config.json", "hf:org/deeper/v1"),
        ("hf:org/broken", "config.json of org/broken is not a model configuration", "model_type"),
        ("hf:org/list", "config.json of org/list is not a model configuration", "model_type"),
        ("hf:org/deep", "config.json of org/deep is not a model configuration", "model_type"),
        ("hf:org/new", "has no model_type 'brand_new'", "model_type"),
        ("hf:org/kernel", "is code on the hub, which is not run", "leave it out"),
        ("hf:org/bert@", "names no model of the hub", "hf:ORG/NAME"),
        ("hf:org/", "names no model of the hub", "hf:ORG/NAME"),
        ("hf:org//bert", "names no model of the hub", "hf:ORG/NAME"),
        ("hf:org/../../etc", "names no model of the hub", "hf:ORG/NAME"),
        ("hf:org/bert/../x", "names no model of the hub", "hf:ORG/NAME"),
        ("hf:org/a b", "names no model of the hub", "hf:ORG/NAME"),
        ("hf:org/bert?x=1", "names no model of the hub", "hf:ORG/NAME"),
        ("hf:org/bert@main?x", "names no model of the hub", "hf:ORG/NAME"),
        ("hf:org/" + "x" * 200, "names no model of the hub", "hf:ORG/NAME"),
        ("hf:org/x--y", "names no model of the hub", "hf:ORG/NAME"),
        ("hf:org/bert:Q4_K_M", "names no model of the hub", "/FILE"),
        ("https://huggingface.co/org/bert/tree/main", "is an address", "hf:org/bert for"),
        ("http://", "is an address", "hf:ORG/NAME"),
        ("hf:nowhere", "no configuration at nowhere", "hf:ORG/NAME"),
        ("hf:./nowhere", "no configuration at", "hf:ORG/NAME"),
        ("hf:org/config.json", "no configuration at", "hf:ORG/NAME"),
    ],
)
def test_one_line_and_a_hint(hub: SmallHub, spec: str, message: str, hint: str) -> None:
    hub.add("org/bert", {"config.json": BERT})
    hub.add("org/empty", {"README.md": "hello"})
    parts = {f"{part}/config.json": BERT for part in ("unet", "vae")}
    hub.add("org/pipe", {"model_index.json": {}, **parts})
    hub.add("org/ggufs", {"a.gguf": b"1"})
    hub.add("org/deeper", {"v1/config.json": BERT})
    hub.add("org/broken", {"config.json": "{"})
    hub.add("org/list", {"config.json": "[]"})
    hub.add("org/deep", {"config.json": "[" * 100_000})
    hub.add("org/new", {"config.json": {"model_type": "brand_new"}})
    hub.add("org/kernel", {"config.json": {**BERT, "attn_implementation": "evil/kernels"}})
    error = refused(spec)
    assert message in error.message
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("status", "message"),
    [(500, "HTTP 500"), (503, "HTTP 503"), (429, "too many requests"), (401, "the hub"), (403, "HTTP 403"),
     (400, "HTTP 400"), (404, "HTTP 404"), (418, "HTTP 418")],
)  # fmt: skip
def test_a_status_is_an_error_at_once(hub: SmallHub, status: int, message: str) -> None:
    hub.status = status
    begin = time.monotonic()
    assert message in refused("hf:org/bert").message
    with pytest.raises(InspectError, match=message):
        inspector.params("hf:org/bert")
    assert time.monotonic() - begin < 5
    assert len(hub.asked("HEAD", "config.json")) == 1


def test_a_page_instead_of_a_hub_is_told(hub: SmallHub) -> None:
    hub.page = True
    assert "does not answer as a hub does" in refused("hf:org/bert").message
    with pytest.raises(InspectError, match="does not answer as a hub does"):
        inspector.params("hf:org/bert")


def test_a_hub_that_does_not_answer_is_left_after_the_timeout(
    hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 1)
    hub.delay = 3
    begin = time.monotonic()
    error = refused("hf:org/bert")
    assert "did not answer within 1 s" in error.message
    assert time.monotonic() - begin < 6


def test_a_dead_endpoint_is_named(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint in ("http://127.0.0.1:9", "http://no.such.host.invalid", "ftp://127.0.0.1", "nonsense"):
        point(monkeypatch, endpoint)
        error = refused("hf:org/bert")
        assert endpoint in error.message
        assert "HF_ENDPOINT" in (error.hint or "")


def test_an_endpoint_that_is_empty_is_told(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "")
    assert refused("hf:org/bert").message == "HF_ENDPOINT is empty"


def test_a_configuration_as_large_as_weights_is_not_fetched(hub: SmallHub) -> None:
    hub.add("org/huge", {"config.json": b" " * (LARGEST + 1)})
    assert "too much for one" in refused("hf:org/huge").message
    assert not hub.asked("GET", "config.json")


def test_names_of_the_hub_and_paths_are_told_apart(tmp_path: Path) -> None:
    place = repository("org/na-me.x_1/sub/deeper@refs/pr/3")
    assert place is not None
    assert (place.name, place.path, place.revision) == ("org/na-me.x_1", "sub/deeper", "refs/pr/3")
    assert str(repository("org/name")) == "org/name@main"
    for local in ("name", "./org/name", "/org/name", "~/org/name", "org/name.json", str(tmp_path), "a\\b/c"):
        assert repository(local) is None


# The command line, with the variables of the environment.


@pytest.fixture
def run(hub: SmallHub, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def inspect(*words: str, **environment: str) -> tuple[int, str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        mine = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), **environment}
        done = subprocess.run(
            [sys.executable, "-m", "inspector", *words],
            env={**clean, **mine}, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return inspect


def test_the_command_line_uses_the_endpoint_the_cache_and_the_token(hub: SmallHub, run: Any) -> None:
    commit = hub.add("org/gated", {"config.json": BERT}, gated=True)
    code, out, err = run("profile", "hf:org/gated")
    assert (code, out) == (2, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["error", "hint"]
    code, out, _ = run("profile", "hf:org/gated", "--depth", "0", HF_TOKEN=TOKEN)
    assert code == 0
    assert commit in out
    hub.requests.clear()
    code, out, _ = run("profile", "hf:org/gated", "--depth", "0", HF_HUB_OFFLINE="1")
    assert (code, hub.requests) == (0, [])
