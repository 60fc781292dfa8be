"""Seeds and double initialisation: small planted mistakes, and models of the field that have none."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import init

from inspector.initialization.builds import builds
from inspector.initialization.checks import SEED
from inspector.initialization.checks.twice import Filled, written_twice
from inspector.initialization.writes import EMPTY, FOREIGN, RANDOM, Writes, written
from inspector.models.build import build
from inspector.reporting.checks import examine
from inspector.reporting.report import Finding

Construct = Callable[[], nn.Module]


def seeds(construct: Construct) -> list[Finding]:
    return examine(SEED, builds(lambda seed: build(construct, "cpu", seed), 0))


def twice(construct: Construct, **options: Any) -> list[Finding]:
    writes = written(lambda: build(construct, "cpu"))
    return written_twice(Filled(writes.result, writes, **options))


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.status for finding in findings}


def only(findings: list[Finding], check: str, status: str) -> Finding:
    (found,) = [f for f in findings if (f.check, f.status) == (check, status)]
    return found


class Holder(nn.Module):
    """A module with one parameter `w` of given values."""

    def __init__(self, values: torch.Tensor, trainable: bool = True) -> None:
        super().__init__()
        self.w = nn.Parameter(values, requires_grad=trainable)


# --- the record ---------------------------------------------------------------------------------


def fill(function: Callable[[torch.Tensor], object], *shape: int) -> Any:
    """The writes of an empty tensor that `function` fills, outside any module."""
    tensor = torch.empty(*(shape or (4, 4)))
    return written(lambda: function(tensor)).of(tensor)


@pytest.mark.parametrize(
    ("function", "random"),
    [
        (init.uniform_, True),
        (init.normal_, True),
        (init.trunc_normal_, True),
        (init.xavier_uniform_, True),
        (init.xavier_normal_, True),
        (init.kaiming_uniform_, True),
        (init.kaiming_normal_, True),
        (init.orthogonal_, True),
        (init.zeros_, False),
        (init.ones_, False),
        (init.eye_, False),
    ],
)
def test_every_initialiser_of_torch_counts_once_under_its_name(function: Any, random: bool) -> None:
    (write,) = fill(function)
    assert (write.initialiser, write.random, write.explicit) == (function.__name__, random, True)
    assert (write.start, write.stop, write.scope) == (0, 16, 0)


def test_initialisers_with_arguments_count_once_too() -> None:
    narrow = fill(lambda w: init.trunc_normal_(w, a=1.0, b=2.0))  # another branch of torch
    sparse, dirac = fill(lambda w: init.sparse_(w, 0.5)), fill(lambda w: init.dirac_(w), 4, 4, 3)
    assert [(w.initialiser, w.random) for w in (*narrow, *sparse, *dirac)] == [
        ("trunc_normal_", True), ("sparse_", True), ("dirac_", False),
    ]  # fmt: skip


def test_an_initialiser_of_somebody_else_counts_once() -> None:
    def doubled_normal_(w: torch.Tensor) -> None:
        w.normal_()
        w.normal_().mul_(2)  # inside one call of one function: its own affair

    assert [write.initialiser for write in fill(doubled_normal_)] == ["doubled_normal_"]


def test_fills_by_methods_by_out_and_by_copies_are_seen() -> None:
    assert [w.initialiser for w in fill(lambda w: w.data.normal_().mul_(0.1))] == ["Tensor.normal_"]
    assert [w.random for w in fill(lambda w: torch.rand(4, 4, out=w))] == [True]
    assert [w.random for w in fill(lambda w: w.copy_(torch.randn(4, 4) * 3))] == [True]
    assert [w.random for w in fill(lambda w: w.copy_(torch.arange(16.0).reshape(4, 4)))] == [False]


def test_a_copy_of_values_made_from_the_tensor_itself_is_a_change_not_a_fill() -> None:
    assert len(fill(lambda w: (w.normal_(), w.copy_(w.clamp(-1, 1) / 2)))) == 1


def test_rows_that_a_loop_fills_in_order_are_one_write() -> None:
    def rows(w: torch.Tensor) -> None:
        for row in w:
            row.normal_()

    assert [(write.start, write.stop) for write in fill(rows, 50, 4)] == [(0, 200)]


def test_fills_inside_layers_of_torch_are_not_explicit() -> None:
    writes = written(lambda: nn.Linear(3, 3))
    assert [(w.initialiser, w.explicit) for w in writes.of(writes.result.weight)] == [
        ("kaiming_uniform_", False)
    ]


def test_origins_tell_random_constant_foreign_and_empty_values_apart() -> None:
    values = np.arange(9.0)
    cases: list[tuple[Callable[[], torch.Tensor], set[str]]] = [
        (lambda: torch.randn(9) * 0.02, {RANDOM}),
        (lambda: torch.arange(9) / 9, set()),
        (lambda: torch.zeros_like(torch.randn(9)), set()),
        (lambda: torch.randn(9).zero_(), set()),
        (lambda: torch.randn(9).mul_(torch.ones(9)), {RANDOM}),
        (lambda: torch.from_numpy(values), {FOREIGN}),
        (lambda: torch.tensor([1.0, 2.0]).float(), {FOREIGN}),
        (lambda: torch.empty(9), {EMPTY}),
        (lambda: torch.empty(9).fill_(3.0), set()),
    ]
    for make, expected in cases:
        writes = written(make)
        assert writes.origins(writes.result) == expected


def test_recording_does_not_change_the_values() -> None:
    plain = build(lambda: nn.Transformer(8, 2, 1, 1, 8), "cpu", 3).state_dict()
    seen = written(lambda: build(lambda: nn.Transformer(8, 2, 1, 1, 8), "cpu", 3)).result.state_dict()
    assert all(torch.equal(plain[name], seen[name]) for name in plain)


def test_what_raises_inside_is_not_caught() -> None:
    with pytest.raises(ZeroDivisionError):
        written(lambda: 1 / 0)
    torch.randn(2)  # the mode is gone


# --- seeds --------------------------------------------------------------------------------------


def test_a_seeded_model_passes_both_checks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    found = seeds(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)))
    assert statuses(found) == {"reproducible": "pass", "seed_ignored": "pass"}
    count = len([*model.parameters(), *model.buffers()])  # 2 + 2 + 3 + 2 = 9
    assert f"all {count} tensors" in found[0].message


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.from_numpy(np.random.default_rng().normal(size=20)),
        lambda: torch.tensor(list(os.urandom(20))).float(),
    ],
)
def test_randomness_outside_torch_is_named_as_the_cause(draw: Callable[[], torch.Tensor]) -> None:
    failed = only(seeds(lambda: Holder(draw())), "reproducible", "fail")
    assert failed.subject == "w"
    assert "default_rng" in failed.message


def test_a_generator_of_its_own_that_nobody_seeds_is_named_as_the_cause() -> None:
    def construct() -> nn.Module:
        generator = torch.Generator()
        generator.seed()
        return Holder(torch.randn(20, generator=generator))

    assert "Generator().seed()" in only(seeds(construct), "reproducible", "fail").message


def test_seeded_numpy_and_python_randomness_is_reproducible() -> None:
    found = seeds(lambda: Holder(torch.from_numpy(np.random.rand(20))))
    assert statuses(found) == {"reproducible": "pass", "seed_ignored": "pass"}


def test_nan_equals_nan_and_odd_tensors_compare() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nan = nn.Parameter(torch.full((4,), float("nan")))
            self.low = nn.Parameter(torch.randn(8).bfloat16())
            self.waves = nn.Parameter(torch.randn(8, dtype=torch.complex64).conj())
            self.register_buffer("none", torch.empty(0), persistent=False)
            self.register_buffer("flag", torch.tensor(True), persistent=False)
            self.register_buffer("sparse", torch.eye(3).to_sparse())
            self.lazy = nn.LazyLinear(3)

    assert statuses(seeds(Odd)) == {"reproducible": "pass", "seed_ignored": "pass"}


def test_a_non_persistent_buffer_is_compared() -> None:
    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.tensor(list(os.urandom(20))), persistent=False)

    assert only(seeds(Noise), "reproducible", "fail").subject == "n"


def test_a_structure_that_changes_is_a_fail() -> None:
    sizes = iter([2, 3, 2])
    found = seeds(lambda: nn.Sequential(*[nn.Linear(1, 1) for _ in range(next(sizes))]))
    assert "structure" in only(found, "reproducible", "fail").message


def test_a_parameter_that_nothing_fills_is_noticed() -> None:
    found = [f for f in seeds(lambda: Holder(torch.empty(3, 3))) if f.check == "reproducible"]
    assert any("torch.empty" in f.message and f.status in ("warn", "fail") for f in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fixed_generator_ignores_the_seed(dtype: torch.dtype) -> None:
    def construct() -> nn.Module:
        generator = torch.Generator().manual_seed(7)
        return nn.Sequential(nn.Linear(4, 4), Holder(torch.randn(2, 4, generator=generator).to(dtype)))

    found = seeds(construct)
    failed = only(found, "seed_ignored", "fail")
    assert (failed.subject, failed.evidence["count"]) == ("1.w", 1)
    assert only(found, "reproducible", "pass")


def test_seeding_inside_the_constructor_ignores_the_seed() -> None:
    def construct() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(4, 4)

    assert only(seeds(construct), "seed_ignored", "fail").evidence["tensors"] == ["weight", "bias"]


def test_tables_that_are_constant_by_construction_may_stay() -> None:
    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("ids", torch.arange(64))
            self.decay = nn.Parameter(torch.log(torch.arange(1.0, 65.0)))
            self.zero = nn.Parameter(torch.randn(64) * 0)  # random by record, no chance in the values
            self.one = nn.Parameter(torch.bernoulli(torch.ones(64)))
            self.table = nn.Parameter(torch.from_numpy(np.sin(np.arange(64.0))), requires_grad=False)
            self.few = nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))

    assert [f.status for f in seeds(Tables)] == ["pass", "pass"]


def test_a_trainable_parameter_from_a_fixed_numpy_generator_is_a_warning() -> None:
    found = seeds(lambda: Holder(torch.from_numpy(np.random.default_rng(0).normal(size=20))))
    assert only(found, "seed_ignored", "warn").subject == "w"
    assert not [f for f in found if f.status == "fail"]


def test_few_random_bits_prove_nothing() -> None:
    # Two flips of a coin are equal under two seeds once in four.
    for _ in range(30):
        found = examine(SEED, builds(lambda seed: Holder(torch.ones(2).bernoulli_(0.5).cumsum(0)), 0))
        assert not [f for f in found if (f.check, f.status) == ("seed_ignored", "fail")]


def test_meta_tensors_are_skipped() -> None:
    found = examine(SEED, builds(lambda seed: nn.Linear(2, 2, device="meta"), 0))
    assert statuses(found) == {"reproducible": "skip", "seed_ignored": "skip"}


def test_the_random_state_of_the_caller_is_kept() -> None:
    before = torch.get_rng_state()
    seeds(lambda: nn.Linear(2, 2))
    assert torch.equal(before, torch.get_rng_state())


# --- written twice ------------------------------------------------------------------------------


class Net(nn.Module):
    """Two linear layers and a head; `plan` initialises them inside the constructor."""

    def __init__(self, plan: Callable[[Net], object]) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        plan(self)


def xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        init.xavier_uniform_(module.weight)


def kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        init.kaiming_normal_(module.weight)


def test_one_explicit_initialisation_passes_and_says_what_the_defaults_cost() -> None:
    found = twice(lambda: Net(lambda net: net.apply(xavier)))
    assert [f.status for f in found] == ["pass", "warn"]
    assert found[1].evidence["tensors"] == ["a.weight", "b.weight", "head.weight"]


def test_defaults_alone_are_silent() -> None:
    assert [f.status for f in twice(lambda: nn.Transformer(8, 2, 1, 1, 8))] == ["pass"]


def test_applying_one_scheme_twice_is_a_fail() -> None:
    failed = only(twice(lambda: Net(lambda net: net.apply(xavier).apply(xavier))), "written_twice", "fail")
    assert failed.evidence["tensors"] == ["a.weight", "b.weight", "head.weight"]


def test_applying_two_schemes_is_a_fail_that_names_both() -> None:
    failed = only(twice(lambda: Net(lambda net: net.apply(xavier).apply(kaiming))), "written_twice", "fail")
    assert "xavier_uniform_" in failed.evidence["first"]
    assert "kaiming_normal_" in failed.evidence["second"]
    assert "test_determinism.py" in failed.evidence["second"]


def test_outside_a_constructor_the_same_holds() -> None:
    net = Net(lambda net: None)
    writes = written(lambda: net.apply(xavier).apply(kaiming))
    assert statuses(written_twice(Filled(net, writes))) == {"written_twice": "fail"}
    writes = written(lambda: net.apply(xavier))
    assert [f.status for f in written_twice(Filled(net, writes))] == ["pass"]


def test_a_general_scheme_after_a_special_one_is_a_fail() -> None:
    def plan(net: Net) -> None:
        init.normal_(net.head.weight, std=0.01)
        net.apply(xavier)

    assert only(twice(lambda: Net(plan)), "written_twice", "fail").evidence["tensors"] == ["head.weight"]


def test_a_special_scheme_after_a_general_one_is_a_warning() -> None:
    def plan(net: Net) -> None:
        net.apply(xavier)
        init.normal_(net.head.weight, std=0.01)
        init.zeros_(net.b.weight)

    found = twice(lambda: Net(plan))
    assert [f.status for f in found] == ["pass", "warn", "warn"]
    assert found[2].evidence["tensors"] == ["b.weight", "head.weight"]


def test_a_tied_tensor_that_both_its_names_initialise_is_a_fail_with_both_names() -> None:
    def plan(net: Net) -> None:
        net.a.weight = net.b.weight
        net.apply(xavier)

    failed = only(twice(lambda: Net(plan)), "written_twice", "fail")
    assert failed.evidence["tensors"] == ["a.weight = b.weight"]


def test_an_outer_constructor_may_override_an_inner_one() -> None:
    found = twice(lambda: nn.Sequential(Net(lambda net: net.apply(xavier))).apply(kaiming))
    assert [f.status for f in found] == ["pass", "warn", "warn"]
    assert found[1].evidence["count"] == found[2].evidence["count"] == 3


def test_constants_that_are_overwritten_are_no_loss() -> None:
    def plan(net: Net) -> None:
        init.zeros_(net.a.bias)
        init.ones_(net.a.bias)
        init.normal_(net.a.bias)

    assert not [f for f in twice(lambda: Net(plan)) if f.status == "fail"]


def test_parts_of_one_tensor_are_not_twice_and_together_cover_it() -> None:
    def parts(w: torch.Tensor) -> None:
        for part in w.chunk(3):
            init.xavier_uniform_(part)

    packed = Holder(torch.empty(12, 4))
    once = written(lambda: parts(packed.w.data))
    assert statuses(written_twice(Filled(packed, once))) == {"written_twice": "pass"}
    doubled = written(lambda: (init.normal_(packed.w), parts(packed.w.data)))
    assert statuses(written_twice(Filled(packed, doubled))) == {"written_twice": "fail"}
    partly = written(lambda: (init.normal_(packed.w), init.normal_(packed.w.data[:, 2:])))
    assert statuses(written_twice(Filled(packed, partly))) == {"written_twice": "pass"}
    columns = written(lambda: (init.normal_(packed.w.data[:, 2:]), init.normal_(packed.w.data[:, 2:])))
    assert statuses(written_twice(Filled(packed, columns))) == {"written_twice": "fail"}


def test_with_defaults_counted_every_overwritten_draw_fails() -> None:
    assert twice(lambda: Net(lambda net: net.apply(xavier)), explicit_only=False)[0].status == "fail"
    assert twice(lambda: nn.Linear(2, 2), explicit_only=False)[0].status == "pass"


def test_a_tensor_that_only_the_run_knew_does_not_matter() -> None:
    writes: Writes = written(lambda: torch.empty(3).normal_().normal_())
    assert statuses(written_twice(Filled(nn.Linear(2, 2), writes))) == {"written_twice": "pass"}


# --- models of the field ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121", "efficientnet_b0"])
def test_models_of_torchvision_have_no_mistake(name: str) -> None:
    import torchvision.models

    construct = getattr(torchvision.models, name)
    assert statuses(seeds(construct)) == {"reproducible": "pass", "seed_ignored": "pass"}
    assert not [f for f in twice(construct) if f.status == "fail"]


def test_swin_of_torchvision_really_overwrites_the_mlp_of_its_blocks() -> None:
    # SwinTransformerBlock.__init__: xavier_uniform_; SwinTransformer.__init__: trunc_normal_ over it.
    # 12 blocks x 2 linear layers: 24 weights, and 24 biases that become zero.
    import torchvision.models

    warned = [f for f in twice(torchvision.models.swin_t) if f.status == "warn"]
    assert warned[1].evidence["count"] == 48
    assert "xavier_uniform_" in warned[1].evidence["example"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("vit_tiny_patch16_224", {"depth": 3}), ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 2, 1)})],
)
def test_models_of_timm_have_no_mistake(name: str, options: dict[str, Any]) -> None:
    timm = pytest.importorskip("timm")

    def construct() -> nn.Module:
        return timm.create_model(name, **options)

    assert [f.status for f in seeds(construct)] == ["pass", "pass"]
    assert [f.status for f in twice(construct)] == ["pass", "warn"]
