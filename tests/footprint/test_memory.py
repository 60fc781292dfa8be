"""`inspector.memory`: against torch's own memory events, and what is asked of a prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import inspector
from inspector.core.errors import InspectError
from inspector.footprint.question import largest_batch, parse_size
from inspector.footprint.step import CUDA_CONTEXT


class Net(nn.Module):
    """Convolutions, norms, a residual, dropout, attention and a tied use of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.GELU())
        self.encoder = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.block(self.block(x))
        return self.head(self.encoder(x.flatten(2).transpose(1, 2)).mean(1))


@pytest.fixture
def no_fused_encoder() -> Iterator[None]:
    """In eval mode torch has one opaque operator for a whole encoder layer; none is predicted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize(
    ("phase", "optimizer", "globs"),
    [
        ("forward", None, ()),
        ("train", "sgd", ()),
        ("train", "momentum", ()),
        ("train", "adamw", ()),
        ("train", "sgd", ("block", "encoder")),
    ],
)
def test_tensors_are_predicted_to_a_hundredth_of_what_torch_records_on_a_cpu(
    phase: str, optimizer: str | None, globs: tuple[str, ...], amp: bool, no_fused_encoder: None
) -> None:
    report = inspector.memory(
        Net(), "1x3x32x32", batch=4, phase=phase, optimizer=optimizer, amp=amp, measure=True,
        checkpoint_activations=globs,
    )  # fmt: skip
    found = report.to_frame("measured").set_index("quantity").loc["tensors"]
    assert found["ratio"] == pytest.approx(1, abs=0.01)
    assert found["measured"] > 100_000


@pytest.mark.gpu
@pytest.mark.parametrize("phase", ["forward", "train"])
def test_the_peak_is_that_of_torchs_counter_on_a_gpu(phase: str) -> None:
    report = inspector.memory("resnet18", batch=16, phase=phase, measure=True)
    found = report.to_frame("measured").set_index("quantity").loc["peak allocated"]
    assert found["ratio"] == pytest.approx(1, abs=0.03)


def test_the_parts_sum_to_the_peak() -> None:
    report = inspector.memory("resnet18", batch=2, phase="train", optimizer="adamw")
    parts = {name: m.value for name, m in report.metrics.items() if name.startswith("peak_")}
    allocated, _ = parts.pop("peak_allocated"), parts.pop("peak_reserved")
    assert sum(parts.values()) == allocated
    # resnet18: 11,689,512 parameters of 4 bytes (torchvision's num_params). A large one also takes the rest
    # of its segment when that has no more than 1 MiB; layer4's are 9 MiB of 20, and 9: nothing is lost.
    assert 0 <= parts["peak_parameters"] - 4 * 11_689_512 < 2**20
    assert report.verdict == "none"


def test_peak_reserved_is_at_least_peak_allocated_and_whole_segments() -> None:
    report = inspector.memory("resnet18", batch=2)
    allocated, reserved = (report.metrics[f"peak_{name}"].value for name in ("allocated", "reserved"))
    assert reserved >= allocated
    assert reserved % (2 * 2**20) == 0


def test_what_does_not_fit_fails_with_its_composition() -> None:
    report = inspector.memory("resnet18", batch=2, phase="train", fits="0.5GiB")
    finding = next(f for f in report.findings if f.check == "fits")
    assert (report.verdict, finding.status) == ("fail", "fail")
    assert "parameters" in finding.message
    assert finding.evidence["needed"] > finding.evidence["limit"] == 2**29
    assert inspector.memory("resnet18", batch=2, fits="40GiB").verdict == "pass"


def test_the_largest_batch_fits_and_the_next_does_not() -> None:
    report = inspector.memory(Net(), "1x3x64x64", phase="train", max_batch="2GiB")
    tried = report.to_frame("batches").set_index("batch")["fits"]
    largest = report.metrics["max_batch"].value
    assert tried[largest]
    assert not tried[largest + 1]


def test_a_batch_that_is_safe_fits_with_the_largest_workspaces_and_the_next_does_not() -> None:
    convolution = nn.Conv2d(3, 16, 3, padding=1)
    report = inspector.memory(convolution, "1x3x64x64", max_batch="1GiB")
    rows = {row["batch"]: row for row in report.tables["batches"].records()}
    assert list(rows) == sorted(rows)
    safe, largest = report.safe_batch, report.max_batch
    assert 0 < safe <= largest
    assert rows[safe]["at_most"] <= 2**30 < rows[safe + 1]["at_most"]
    alone = inspector.memory(convolution, "1x3x64x64", batch=safe)
    more = alone.convolution_workspace
    assert more > 0  # of the patches, or of transforms
    assert (
        rows[safe]["at_most"] == rows[safe]["needed"] + more == alone.peak_reserved + CUDA_CONTEXT[1] + more
    )


def test_the_search_goes_on_from_what_is_known() -> None:
    tried: list[dict[str, Any]] = []
    known = {2: 20, 4: 40, 100: 1000, 101: 1010}
    assert largest_batch(lambda batch: 10 * batch, 500, tried, known) == 50
    assert len(tried) <= 3
    assert largest_batch(lambda batch: 10 * batch, 1005, [], known) == 100


def test_no_row_says_that_nothing_is_added() -> None:
    """A model without convolutions has no row for cuDNN's workspaces; JSON has its 0."""
    report = inspector.memory(nn.Linear(4, 4), "1x4")
    assert report.convolution_workspace == 0
    assert "workspaces add" not in str(report)
    convolution = str(inspector.memory(nn.Conv2d(3, 16, 3), "1x3x64x64"))
    assert "cuDNN's workspaces add at most" in convolution
    assert "add at least" not in convolution  # from none


@pytest.mark.parametrize("question", [{}, {"fits": "2GiB"}, {"max_batch": "1GiB"}])
def test_the_notes_agree_with_what_is_needed(question: dict[str, str]) -> None:
    text = str(inspector.memory(nn.Linear(4, 4), "1x4", **question))  # type: ignore[arg-type]
    assert ("what is needed includes 0.78 GiB for it" in text) is bool(question)
    assert ("the peaks do not include CUDA's own context" in text) is not bool(question)


@pytest.mark.parametrize(
    ("slope", "room", "expected"), [(10, 1005, 99), (7, 1000, 141), (10, 14, 0), (3, 19, 3)]
)
def test_the_search_on_a_line(slope: int, room: int, expected: int) -> None:
    # needed = 10 + slope * batch: (1005 - 10) / 10 = 99.5, (1000 - 10) / 7 = 141.4, 0.4, 3.
    tried: list[dict[str, Any]] = []
    assert largest_batch(lambda batch: 10 + slope * batch, room, tried) == expected
    assert len(tried) <= 6


def test_the_search_on_steps() -> None:
    # Memory grows by 100 at every seventh sample: 10 * (n // 7) <= 10 * 14 until 104.
    assert largest_batch(lambda batch: 100 * (batch // 7), 1400, []) == 104


def test_nothing_fits() -> None:
    report = inspector.memory("resnet18", max_batch="100MiB")
    assert report.metrics["max_batch"].value == 0
    assert report.verdict == "fail"


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("24GiB", 24 * 2**30), ("80GB", 80 * 10**9), ("1.5 KiB", 1536), ("7B", 7), (5, 5), ("512mib", 2**29)],
)
def test_sizes_are_read(text: str | int, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["24", "0GiB", "-1GiB", "24 gigs", "", "GiB", True])
def test_other_sizes_are_refused(text: Any) -> None:
    with pytest.raises(InspectError, match="cannot read the size"):
        parse_size(text)


def test_attention_in_parts_needs_more() -> None:
    fused, math = (
        inspector.memory("vit_b_16", batch=32, phase="train", attention=form).metrics["peak_allocated"].value
        for form in ("fused", "math")
    )
    # 12 layers keep the probabilities of 32 x 12 heads, 197 x 197 floats each.
    assert math - fused > 12 * 32 * 12 * 197 * 197 * 4


def test_a_larger_cublas_workspace_on_hopper() -> None:
    a100, h100 = (
        inspector.memory(nn.Linear(4, 4, bias=False), "1x4", gpu=gpu).metrics["peak_workspace"].value
        for gpu in ("a100", "h100")
    )
    assert (a100, h100) == (8_519_680, 32 * 2**20)


def test_a_finished_trace_can_be_asked() -> None:
    trace = inspector.trace(nn.Linear(100, 100), "1x100", phase="train")
    assert inspector.memory(trace, optimizer="adam").metrics["peak_optimizer_state"].value > 0


def test_a_finished_trace_cannot_be_run_in_another_way() -> None:
    trace = inspector.trace(nn.Linear(4, 4), "1x4")
    for options in ({"batch": 2}, {"amp": True}, {"phase": "train"}, {"checkpoint_activations": ["0"]}):
        with pytest.raises(InspectError, match="simulated as it was recorded"):
            inspector.memory(trace, **options)  # type: ignore[arg-type]


def test_the_search_does_not_creep_on_a_curve() -> None:
    # batch^3 / 1000 <= 10^9: 10,000.
    tried: list[dict[str, Any]] = []
    assert largest_batch(lambda batch: batch**3 // 1000, 10**9, tried) == 10_000
    assert len(tried) < 40


def test_the_context_of_cuda_is_said_and_counted_in_what_must_fit() -> None:
    report = inspector.memory(nn.Linear(4, 4), "1x4", fits=CUDA_CONTEXT[1])
    assert report.verdict == "fail"
    assert any("CUDA's own context" in finding.message for finding in report.findings)


def test_the_model_is_unchanged() -> None:
    model = Net().eval()
    before = {name: (value.clone(), value.dtype) for name, value in model.state_dict().items()}
    inspector.memory(
        model, "2x3x32x32", phase="train", amp=True, dtype="float16", checkpoint_activations=["block"]
    )
    assert all(
        torch.equal(before[n][0], v) and before[n][1] is v.dtype for n, v in model.state_dict().items()
    )
    assert not model.training
    assert "forward" not in model.block.__dict__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "training only"),
        ({"phase": "train", "optimizer": "adan"}, "no optimizer is called 'adan'"),
        ({"dtype": "int8"}, "unknown dtype"),
        ({"checkpoint_activations": ["layer1"]}, "only training keeps activations"),
        ({"phase": "train", "checkpoint_activations": ["layer9*"]}, "matches no module"),
        ({"attention": "flash"}, "unknown attention"),
        ({"gpu": "b300"}, "no device is called"),
        ({"batch": 0}, "holds no sample"),
        ({"batch": 2, "max_batch": "1GiB"}, "`max_batch=` searches for the batch"),
        ({"world_size": 2, "shard": "zero"}, "cannot simulate 2 processes"),
        ({"phase": "backward"}, "unknown phase"),
    ],
)
def test_bad_questions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InspectError, match=message):
        inspector.memory("resnet18", **options)


def test_a_search_says_which_batch_it_tries() -> None:
    told: list[tuple[str, float]] = []
    report = inspector.memory(
        nn.Linear(64, 64), "1x64", max_batch="1GiB", tell=lambda what, share: told.append((what, share))
    )
    assert sorted(what for what, _ in told) == sorted(
        f"batch {row['batch']}" for row in report.tables["batches"].records()
    )
    assert [share for _, share in told] == sorted(share for _, share in told)
