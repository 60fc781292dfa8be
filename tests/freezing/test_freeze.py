"""Freezing from Python: what changes, what is proven, what comes back."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import inspector
from inspector.core.errors import InspectError
from inspector.freezing import evidence
from inspector.models.replica import Replica, duplicate


def snapshot(model: nn.Module) -> list[object]:
    flags = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    return [flags, modes, {name: t.clone() for name, t in model.state_dict().items()}]


def same(left: list[object], right: list[object]) -> bool:
    tensors = left[2], right[2]
    assert isinstance(tensors[0], dict)
    assert isinstance(tensors[1], dict)
    return left[:2] == right[:2] and all(torch.equal(tensors[0][k], tensors[1][k]) for k in tensors[0])


def test_freezing_two_stages_leaves_layer2_trainable() -> None:
    model = resnet18()
    inspector.freeze(model, at=2)
    frozen = {name.partition(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    model.train()
    assert not model.bn1.training
    assert model.layer2[0].bn1.training


def test_the_counts_are_those_of_the_paper_s_layers() -> None:
    # resnet18: stem 64*3*49 + 2*64 = 9,536; layer1 = 4 * (64*64*9) + 4 * 128 = 147,968.
    report = inspector.freeze("resnet18", at=2).report()
    assert report.metrics["frozen_params"].value == 9_536 + 147_968
    assert report.metrics["params"].value == 11_689_512
    assert report.metrics["trainable_params"].value == 11_689_512 - 157_504


def test_unfreeze_restores_everything() -> None:
    model = resnet18().eval()
    model.layer1[0].bn1.train()
    model.conv1.weight.requires_grad_(False)
    model.bn1.weight.grad = torch.ones(64)
    before = snapshot(model)
    handle = inspector.freeze(model, at=3)
    assert model.bn1.weight.grad is None
    handle.unfreeze()
    assert same(before, snapshot(model))
    assert torch.equal(model.bn1.weight.grad, torch.ones(64))
    assert model.train().bn1.training


def test_as_a_context_it_ends_with_the_block() -> None:
    model = resnet18()
    with inspector.freeze(model, at=1):
        assert not model.conv1.weight.requires_grad
    assert model.conv1.weight.requires_grad


def test_verifying_changes_nothing() -> None:
    model = resnet18().eval()
    handle = inspector.freeze(model, at=2)
    before, random = snapshot(model), torch.get_rng_state()
    report = handle.verify("2x3x32x32", ddp=False)
    assert report.verdict == "pass"
    assert same(before, snapshot(model))
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_live_model_without_inputs_is_frozen_but_not_verified() -> None:
    handle = inspector.freeze(resnet18(), at=2)
    with pytest.raises(InspectError, match="no default input"):
        handle.verify()


def test_patterns_select_parameters_and_name_what_matches_nothing() -> None:
    handle = inspector.freeze(resnet18(), patterns=["layer1.*", "fc.bias"])
    assert set(handle.names) >= {"layer1.0.conv1.weight", "fc.bias"}
    assert "fc.weight" not in handle.names
    assert "layer1.0.bn1" in handle.plan.norms
    with pytest.raises(InspectError, match="matches no parameter"):
        inspector.freeze(resnet18(), patterns=["layer9.*"])


def test_norm_eval_fixes_statistics_and_trains_the_affine_part() -> None:
    model = resnet18()
    handle = inspector.freeze(model, at=1, norm="eval")
    assert handle.names == ("conv1.weight",)
    assert model.bn1.weight.requires_grad
    assert not model.train().bn1.training


def test_norm_train_fails_with_the_cause() -> None:
    handle = inspector.freeze("resnet18", at=1, norm="train")
    report = handle.verify("2x3x32x32", ddp=False)
    assert report.verdict == "fail"
    failed = {finding.check: finding for finding in report.findings if finding.status == "fail"}
    assert failed["buffers"].subject == "bn1.running_mean"
    assert "--norm freeze" in failed["buffers"].message
    assert set(failed["buffers"].evidence) == {
        f"bn1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_a_model_is_verified_as_its_author_froze_it() -> None:
    model = resnet18()
    for parameter in model.layer1.parameters():
        parameter.requires_grad_(False)
    handle = inspector.freeze(model)
    assert not handle.applied
    report = handle.verify("2x3x32x32", ddp=False)
    assert next(f.check for f in report.findings if f.status == "fail") == "buffers"
    with pytest.raises(InspectError, match="nothing is frozen"):
        inspector.freeze(resnet18())


def test_your_own_stages_come_first() -> None:
    handle = inspector.freeze(resnet18(), at=1, stages=[["conv1", "bn1", "layer1", "layer2"], ["layer3"]])
    assert any(name.startswith("layer2") for name in handle.names)
    assert not any(name.startswith("layer3") for name in handle.names)


def test_an_n_outside_the_stages_is_refused_and_changes_nothing() -> None:
    model = resnet18()
    with pytest.raises(InspectError, match="from 0 to 5"):
        inspector.freeze(model, at=6)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_wrapped_model_is_refused(tmp_path: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(resnet18())
        with pytest.raises(InspectError, match="after the DistributedDataParallel wrap"):
            inspector.freeze(wrapped, at=2)
    finally:
        dist.destroy_process_group()


def test_a_saved_model_comes_with_a_readable_manifest(tmp_path: Path) -> None:
    handle = inspector.freeze("resnet18", at=1, seed=3)
    state, manifest = handle.save(tmp_path / "frozen.pth")
    loaded = resnet18()
    loaded.load_state_dict(torch.load(state, weights_only=True))
    assert torch.equal(loaded.fc.weight, handle.model.fc.weight)
    content = json.loads(manifest.read_text())
    assert content["frozen"] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    again = inspector.freeze("resnet18", at=1, weights=state)
    assert torch.equal(again.model.fc.weight, handle.model.fc.weight)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_small_classifiers_are_silent_at_three_n(name: str) -> None:
    """All of torchvision's are in benchmarks/freeze_clean.py."""
    total = len(inspector.freeze(name, at=1).plan.backbone.stages)
    for at in (1, total // 2, total):
        report = inspector.freeze(name, at=at).verify(ddp=False, steps=3)
        assert [finding for finding in report.findings if finding.status == "fail"] == []


def test_a_custom_optimizer_is_audited() -> None:
    model = resnet18()
    handle = inspector.freeze(model, at=2)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.1)
    report = handle.verify("2x3x32x32", ddp=False, optimizer=optimizer)
    audit = [f for f in report.findings if f.check == "optimizer"]
    assert audit[0].status == "fail"
    assert audit[0].subject == "layer2.0.conv1.weight"


class Block(nn.Module):
    """A convolution with a batch norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(torch.relu(self.bn1(self.conv1(x))).mean(dim=(2, 3)))


def frozen(model: nn.Module, **options: object) -> inspector.Frozen:
    return inspector.freeze(model, patterns=["conv1.*", "bn1.*"], inputs="2x3x8x8", **options)


def test_a_forward_that_is_a_closure_runs_on_the_copy() -> None:
    model = Block()
    inner = model.bn1.forward
    model.bn1.forward = lambda x: inner(x)
    whole = model.fc
    model.fc.forward = lambda x: nn.Linear.forward(whole, x)
    before = whole.weight.clone()
    assert frozen(model).verify(ddp=False).verdict == "pass"
    assert torch.equal(whole.weight, before)
    assert all(parameter.grad is None for parameter in model.parameters())


class Elsewhere:
    """Holds a model where no copy can follow it."""

    model: nn.Module


def test_a_forward_that_finds_the_original_is_refused_and_the_original_untouched() -> None:
    model = Block()
    Elsewhere.model = model.fc
    model.fc.forward = lambda x: nn.functional.linear(x, Elsewhere.model.weight)
    handle = frozen(model)
    with pytest.raises(InspectError, match="of the original"):
        handle.verify(ddp=False)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.conv1._forward_pre_hooks


def test_an_output_without_tensors_proves_nothing() -> None:
    class Silent(Block):
        def forward(self, x):
            super().forward(x)

    with pytest.raises(InspectError, match="no tensor that requires grad"):
        frozen(Silent()).verify(ddp=False)


def test_an_output_inside_objects_is_trained_on() -> None:
    class Wrapped(Block):
        def forward(self, x):
            return {"out": [type("Result", (), {"logits": None})()], "loss": Holder(super().forward(x))}

    class Holder:
        def __init__(self, value):
            self.value = value

    with torch.no_grad():  # the caller's mode does not matter
        report = frozen(Wrapped()).verify(ddp=False)
    assert report.verdict == "pass"
    assert any("all 2 trainable" in finding.message for finding in report.findings)


def test_gradient_hooks_run_on_the_copy_and_what_they_do_is_judged() -> None:
    model = Block()
    model.fc.weight.register_hook(lambda grad: torch.zeros_like(grad))
    report = frozen(model).verify(ddp=False)
    failed = {f.check: f for f in report.findings if f.status == "fail"}
    assert set(failed) == {"moved"}
    assert failed["moved"].subject == "fc.weight"
    assert "its own gradient hook makes its gradient zero" in failed["moved"].message


def test_a_hook_that_cannot_be_copied_is_named_with_the_reason() -> None:
    model = Block()
    torch.autograd.graph.register_multi_grad_hook([model.fc.weight], lambda grads: None)
    handle = frozen(model)
    report, strict = handle.verify(ddp=False), handle.verify(ddp=False, strict=True)
    (warning,) = [f for f in report.findings if f.check == "hooks"]
    assert (report.verdict, strict.verdict, warning.subject) == ("pass", "fail", "fc.weight")
    assert "AccumulateGrad" in warning.message  # what pickle refuses


@pytest.mark.parametrize("steps", [0, -1, True, 2.0])
def test_a_number_of_steps_that_cannot_be_taken_is_refused(steps: object) -> None:
    with pytest.raises(InspectError, match="training steps cannot be taken"):
        frozen(Block()).verify(ddp=False, steps=steps)


def test_lazy_parameters_get_their_shape_from_the_inputs() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)).train()
    handle = inspector.freeze(model, patterns=["0.*"], inputs="2x3")
    assert model[0].weight.shape == (4, 3)
    assert model.training
    assert handle.verify(ddp=False).verdict == "pass"


def test_what_the_author_froze_is_described_as_it_is(tmp_path: Path) -> None:
    model = Block()
    model.conv1.requires_grad_(False)
    model.bn1.requires_grad_(False)
    handle = inspector.freeze(model)
    assert ("norm", "left in train mode (1 modules)") in handle.report().header
    manifest = json.loads(handle.save(tmp_path / "found.pth")[1].read_text())
    assert manifest["kept_in_eval"] == []
    with pytest.raises(InspectError, match="nothing is to be frozen"):
        inspector.freeze(model, norm="eval")


def test_a_model_changed_after_freezing_is_refused() -> None:
    model = Block()
    handle = frozen(model)
    model.fc = nn.Sequential(nn.Dropout(), nn.Linear(4, 2))
    with pytest.raises(InspectError, match=r"no longer has fc\.weight"):
        handle.verify(ddp=False)


def test_unfreezing_survives_a_change_of_dtype() -> None:
    model = Block()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    handle = frozen(model)
    model.half()
    handle.unfreeze()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.train().bn1.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": True}, "not a whole number"),
        ({"patterns": [1]}, "list of names or globs"),
        ({"at": 1, "norm": None}, "norm"),
        ({"at": 1, "scheme": None}, "freezing scheme"),
        ({"at": 1, "stages": [[1]]}, "list of names or globs"),
        ({"patterns": ["conv1.*"], "scheme": "mmdet"}, "`scheme=` says how `at=` counts"),
    ],
)
def test_wrong_arguments_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(InspectError, match=message):
        inspector.freeze(resnet18(), **options)


def test_a_batch_without_samples_is_refused() -> None:
    with pytest.raises(InspectError, match="no sample"):
        frozen(Block()).verify("0x3x8x8", ddp=False)


def test_one_sample_is_varied_into_two() -> None:
    report = frozen(Block(), norm="train").verify(torch.randn(1, 3, 8, 8), ddp=False)
    failed = {finding.check for finding in report.findings if finding.status == "fail"}
    assert failed >= {"buffers", "batch_independence"}


def test_one_copy_of_the_model_lives_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large model each copy is gigabytes: none may wait for the garbage collector."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Linear(2, 2))
    model[3].weight.register_hook(lambda grad: grad)  # ours stands in front of it
    copies: list[weakref.ref[nn.Module]] = []
    memories: list[weakref.ref[torch.Tensor]] = []

    def watched(original: nn.Module) -> Replica:
        assert not [ref for ref in (*copies, *memories) if ref() is not None]
        made = duplicate(original)
        copies.append(weakref.ref(made.model))
        memories.extend(map(weakref.ref, made.model.parameters()))
        return made

    monkeypatch.setattr(evidence, "duplicate", watched)
    monkeypatch.setattr(evidence, "replica", lambda original: watched(original).model)
    handle = inspector.freeze(model, patterns=["0.*"])
    gc.disable()
    try:
        assert handle.verify(torch.ones(2, 3), ddp=False).verdict == "pass"
    finally:
        gc.enable()
    assert len(copies) == 3  # to observe, and one for each of two optimizers


def test_a_stage_shows_what_was_frozen_before_too() -> None:
    """`at=1` freezes the stem; of the third stage one weight, and all of the head, were frozen before."""
    torch.manual_seed(0)
    model = resnet18()
    model.layer2[0].conv1.weight.requires_grad_(False)
    model.fc.requires_grad_(False)
    stages = inspector.freeze(model, at=1).report().tables["stages"]
    states = [
        "frozen",
        "trains",
        "partly frozen",
        "trains",
        "trains",
        "frozen",
    ]  # the last: fc
    assert stages["state"] == states
