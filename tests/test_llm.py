"""`inspect llm`: memory and bounds of serving, held against closed forms where those are exact."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import inspector
from inspector.cli.main import main
from inspector.models import as_recipe
from inspector.serving import measured
from tests.fake_gpu import CARDS, FakeGpu

transformers = pytest.importorskip("transformers", minversion="5.0")
pytestmark = pytest.mark.once

LLAMA = Path(__file__).parents[1] / "benchmarks" / "llama-3.1-8b.json"
"""Llama-3.1-8B, by its config.json on the hub."""
GIB = 2**30


@pytest.fixture(scope="module")
def folder() -> str:
    return f"hf:{LLAMA}"


@pytest.fixture(scope="module")
def points(folder: str) -> Any:
    return inspector.llm(folder, gpu="h100", context=8192, batch=[1, 16, 64]).to_frame("points")


def test_the_rate_of_one_sequence_is_that_of_reading_weights_and_cache(points: Any) -> None:
    # 7,504,924,672 parameters without the embedding and 131,072 bytes for each of 8,192 tokens, at 3,350
    # GB/s: 4.80 ms. Activations add less than 1%.
    seconds = (2 * 7_504_924_672 + 8192 * 131_072) / 3350e9
    assert points["tokens_per_second"][0] == pytest.approx(1 / seconds, rel=0.01)
    assert points["tokens_per_second"][0] < 1 / seconds
    assert points["bound"][0] == "memory"


def test_a_batch_needs_a_cache_for_each_sequence(points: Any) -> None:
    each = 8192 * 131_072
    assert list(points["cache"]) == [each, 16 * each, 64 * each]
    assert points["needed"][1] - points["needed"][0] == pytest.approx(15 * each, rel=0.001)
    assert list(points["fits"]) == [True, True, False]  # 16 GB and 8.6, 17, 69 GB, of 72 GiB
    assert points["weights"][0] == pytest.approx(2 * 8_030_261_248, rel=1e-6)


def test_the_longest_context_fits_and_a_longer_one_does_not(folder: str, points: Any) -> None:
    longest = int(points["longest_context"][1] * 0.98)  # a line through two points
    at = inspector.llm(folder, context=longest, batch=[16]).to_frame("points")
    beyond = inspector.llm(folder, context=longest + longest // 20, batch=[16]).to_frame("points")
    assert (bool(at["fits"][0]), bool(beyond["fits"][0])) == (True, False)


def test_it_never_exceeds_what_the_model_is_made_for(points: Any) -> None:
    assert points["longest_context"][0] == 131_072


def small(**more: Any) -> Any:
    torch.manual_seed(0)
    fields = {
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, **more,
    }  # fmt: skip
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields)).eval()


def test_a_device_without_memory_says_nothing_of_what_fits(tmp_path: Path) -> None:
    file = tmp_path / "card.yaml"
    file.write_text("name: mine\nbandwidth: 1000\npeaks: {fp32: 10}\n")
    report = inspector.llm(small(), gpu="mine", device_file=file, context=16, batch=[1, 2])
    points = report.to_frame("points")
    assert points["fits"].isna().all()
    assert points["longest_context"].isna().all()
    assert "max_batch" not in report.metrics


def test_faster_arithmetic_moves_the_bound_to_the_memory(tmp_path: Path) -> None:
    """The same model on two cards: little bandwidth, little arithmetic."""
    bounds = {}
    for name, bandwidth, peak in (("slow memory", 1, 1e6), ("slow arithmetic", 1e6, 1e-3)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"name: {name}\nbandwidth: {bandwidth}\npeaks: {{fp32: {peak}}}\nmemory: 8\n")
        report = inspector.llm(small(), gpu=name, device_file=file, context=16, batch=[4])
        bounds[name] = report.to_frame("points")["bound"][0]
        assert ("compute_bound_batch" in report.metrics) == (bounds[name] == "compute")
    assert bounds == {"slow memory": "memory", "slow arithmetic": "compute"}


def test_experts_are_said_to_be_balanced() -> None:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    report = inspector.llm(transformers.MixtralForCausalLM(config), context=16, batch=[1])
    assert any("evenly over the experts" in finding.message for finding in report.findings)


def test_what_is_measured_grows_the_cache_from_the_context_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward that takes 20 ms and more: its rate is below 1 / 0.02 s, and not far below."""
    model = small()
    lengths: list[tuple[int, int]] = []

    def watched(ids: Any, cache: Any) -> None:
        time.sleep(0.02)
        lengths.append((ids.shape[0], 0 if cache is None else cache.get_seq_length()))

    monkeypatch.setattr(measured, "SECONDS", 0.3)
    machine = measured.Machine(as_recipe(model), 16, None, 0)
    machine.model.register_forward_pre_hook(
        lambda module, args, kwargs: watched(
            kwargs["input_ids"], kwargs.get("cache", kwargs.get("past_key_values"))
        ),
        with_kwargs=True,
    )
    lengths.clear()
    decode = machine.timed("decode", 2)
    steps = [length for batch, length in lengths if length >= 16]
    assert steps == list(range(16, 16 + len(steps)))
    assert len(steps) == decode.runs + measured.WARM_UP
    assert {batch for batch, _ in lengths} == {2}
    assert 40 < decode.rate(2) <= 2 / 0.02
    lengths.clear()
    assert machine.timed("prefill", 1).seconds > 0.02
    assert {length for _, length in lengths} == {0}
    assert not model._forward_pre_hooks


def test_a_batch_that_runs_out_of_memory_is_absent_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(measured, "SECONDS", 0.1)
    model = small()
    whole = measured.owned
    monkeypatch.setattr(measured, "owned", lambda *args: _hooked(whole(*args), full))
    report = inspector.llm(model, context=16, batch=[1, 4], measure=True)
    rates = report.to_frame("points")["measured_tokens_per_second"]
    assert rates[0] > 0
    assert rates.isna()[1]
    skipped = [finding for finding in report.findings if finding.status == "skip"]
    assert [(finding.subject, finding.message) for finding in skipped] == [
        ("batch 4", "not measured: out of memory")
    ]
    assert "of_bound" not in report.to_frame("points")  # the bounds are an H100's, this is a CPU


def _hooked(model: Any, hook: Any) -> Any:
    model.register_forward_pre_hook(hook, with_kwargs=True)
    return model


def test_on_a_listed_gpu_the_rate_is_a_share_of_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "SECONDS", 0.1)
    with FakeGpu(CARDS["a100"]):
        report = inspector.llm(small(), context=16, batch=[1], measure=True)
    points = report.to_frame("points")
    assert report.subject["gpu"] == "A100 SXM 80GB"
    share = points["measured_tokens_per_second"] / points["tokens_per_second"]
    assert points["of_bound"][0] == pytest.approx(share[0])
    assert any("NVIDIA A100" in finding.message for finding in report.findings)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"measure": True, "weights": "int4"}, "cannot be measured so"),
        ({"gpu": "v100", "weights": "w8a8"}, "no peak of int8 products is known of V100"),
        ({"reserve": 1.0}, "is no share"),
        ({"batch": [0]}, "1 sequence or more"),
        ({"gpu": "h900"}, "no device is called"),
        ({"context": 0}, "is no number"),
    ],
)
def test_what_is_wrong_is_said(more: dict[str, Any], words: str) -> None:
    with pytest.raises(inspector.InspectError, match=words):
        inspector.llm(small(), **more)


def test_a_model_without_a_cache_is_refused() -> None:
    with pytest.raises(inspector.InspectError, match="no language model that keeps a cache"):
        inspector.llm("resnet18")


def test_the_kernel_of_attention_reaches_the_model(tmp_path: Path) -> None:
    """All three do the same products; written out, scores are operators of their own."""
    config = small(num_hidden_layers=1).config
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    macs, ops = set(), {}
    for kernel in ("eager", "sdpa", "flex"):
        file = tmp_path / f"{kernel}-report.json"
        arguments = ["profile", f"hf:{tmp_path}", "--input", "input_ids=int64[1,128]", "--attn", kernel]
        assert main([*arguments, "-o", str(file)]) == 0
        report = json.loads(file.read_text())
        macs.add(report["metrics"]["macs"]["value"])
        ops[kernel] = {row["op"] for row in report["tables"]["ops"]}
    assert len(macs) == 1
    assert any("flex" in op for op in ops["flex"])
    assert not any("flex" in op for op in ops["sdpa"])
    assert ops["eager"] != ops["sdpa"]


def test_the_command_writes_the_same_report(folder: str, tmp_path: Path) -> None:
    file = tmp_path / "llm.json"
    arguments = ["llm", folder, "--gpu", "h100", "--context", "1024", "--batch", "1,2", "-o", str(file)]
    assert main(arguments) == 0
    rows = json.loads(file.read_text())["tables"]["points"]
    assert [row["batch"] for row in rows] == [1, 2]


def test_a_context_beyond_what_the_model_was_made_for_is_said() -> None:
    model = small(max_position_embeddings=131_072)
    within, beyond = (
        inspector.llm(model, context=tokens, batch=[1]).findings for tokens in (131_072, 131_073)
    )
    assert not any("max_position_embeddings" in finding.message for finding in within)
    said = [finding.message for finding in beyond if "max_position_embeddings" in finding.message]
    assert len(said) == 1
    assert said[0].startswith("the model is made for 131,072 tokens")
