"""Which of the eight states a change is in, and whether it fails."""

from __future__ import annotations

import random
from typing import Any

import pytest

from inspector.core.errors import InspectError
from inspector.regress.compare import Change, compare
from inspector.regress.noise import CHANCE, chance, decide
from inspector.regress.rules import rules
from tests.regress.hand import (
    ENVIRONMENT,
    MACHINE,
    eight_states,
    finding,
    metric,
    rounds,
    row,
    side,
    single,
    table,
)  # fmt: skip

pytestmark = pytest.mark.once


def one(base: dict[str, Any], head: dict[str, Any], name: str | None = None, **words: Any) -> Change:
    """The only change of two reports, or the one of a metric."""
    found = compare(side(base), side(head, "head.json"), rules(**words)).changes
    chosen = [change for change in found if name is None or change.metric == name]
    assert len(chosen) == 1
    return chosen[0]


def of(base: Any, head: Any, **words: Any) -> Change:
    return one(single(metrics={"macs": base}), single(metrics={"macs": head}), **words)


def test_each_of_the_eight_states_is_what_its_model_is_called() -> None:
    base, head = (side(content) for content in eight_states())
    found = compare(base, head)
    assert {change.state for change in found.changes} == {
        "ok", "improved", "regressed", "new", "missing", "invalid", "incomparable", "noisy",
    }  # fmt: skip
    assert all(change.state == change.model for change in found.changes)
    assert {change.model for change in found.changes if change.fails} == {
        "regressed", "missing", "invalid", "incomparable",
    }  # fmt: skip
    assert found.verdict == "fail"


def test_the_worst_come_first_and_larger_changes_before_smaller_ones() -> None:
    base = table([row("a", params=100), row("b", params=100), row("c", params=100), row("d", params=100)])
    head = table([row("a", params=100), row("b", params=101), row("c", params=90), row("d", params=150)])
    found = compare(side(base), side(head)).changes
    assert [(change.model, change.state) for change in found] == [
        ("d", "regressed"), ("b", "regressed"), ("c", "improved"), ("a", "ok"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "head", "state", "fails"),
    [
        (metric(10), metric(10), "ok", False),
        (metric(10), metric(11), "regressed", True),
        (metric(10), metric(9), "improved", False),
        (metric(10, direction="higher"), metric(9, direction="higher"), "regressed", True),
        (metric(10, direction="higher"), metric(11, direction="higher"), "improved", False),
        (metric(10, direction="none"), metric(9, direction="none"), "regressed", True),
        (metric(2**53), metric(2**53 + 1), "regressed", True),  # equal as floats
        (metric(10), metric(None), "invalid", True),
        (metric(None), metric(10), "new", False),
        (metric(None), metric(None), "incomparable", False),
        (metric(10), metric(10, unit="FLOP"), "incomparable", True),
        (metric(0), metric(1), "regressed", True),
    ],
)
def test_an_exact_metric_is_equal_or_it_changed(base: Any, head: Any, state: str, fails: bool) -> None:
    change = of(base, head)
    assert (change.state, change.fails) == (state, fails)


def test_a_metric_that_is_gone_is_missing_and_one_that_came_is_new() -> None:
    both, alone = (
        single(metrics={"macs": metric(1), "params": metric(2)}),
        single(metrics={"macs": metric(1)}),
    )
    assert one(both, alone, "params").state == "missing"
    assert one(alone, both, "params").state == "new"


def test_a_lower_bound_is_compared_only_where_the_order_is_certain() -> None:
    bound = lambda value: metric(value, lower_bound=True)  # noqa: E731
    assert of(metric(10), bound(11)).state == "regressed"  # at least 11
    assert of(metric(10), bound(9)).state == "incomparable"  # 9 or more
    assert of(metric(10), bound(10)).state == "incomparable"
    assert of(bound(10), metric(9)).state == "improved"  # it was at least 10
    assert of(bound(10), metric(11)).state == "incomparable"
    assert of(bound(10), bound(10)).state == "ok"
    assert of(metric(10), bound(9)).fails


def test_a_tolerance_is_of_base_and_includes_its_edge() -> None:
    # 1% of 1000 is 10.
    assert of(metric(1000), metric(1010), tolerance=["macs=1%"]).state == "ok"
    assert of(metric(1000), metric(1011), tolerance=["macs=1%"]).state == "regressed"
    assert of(metric(1000), metric(989), tolerance=["mac*=1%"]).state == "improved"
    assert of(metric(1000), metric(1005), tolerance=["macs=5"]).state == "ok"


def test_a_toleranced_metric_may_move_by_five_percent_in_the_same_environment_only() -> None:
    def of_memory(value: float, environment: dict[str, Any]) -> Change:
        made = {"peak": metric(100, "byte", "toleranced")}, {"peak": metric(value, "byte", "toleranced")}
        return one(single(metrics=made[0]), single(metrics=made[1], environment=environment))

    assert of_memory(105, ENVIRONMENT).state == "ok"
    assert of_memory(106, ENVIRONMENT).state == "regressed"
    other = of_memory(106, {**ENVIRONMENT, "gpu": "H100"})
    assert (other.state, other.fails) == ("incomparable", False)
    assert "gpu: None and H100" in other.why


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"inputs": ["float32[1,3,64,64]"]}, "inputs: float32[1,3,32,32] and float32[1,3,64,64]"),
        ({"phase": "train"}, "phase: forward and train"),
    ],
)
def test_another_question_is_no_answer_even_where_the_numbers_agree(asked: Any, said: str) -> None:
    numbers = {"macs": metric(10), "params": metric(5, "element")}
    found = compare(side(single(metrics=numbers)), side(single(metrics=numbers, **asked))).changes
    states = {change.metric: (change.state, change.fails, change.why) for change in found}
    assert states["macs"] == ("incomparable", True, said)
    assert states["params"][0] == "ok"  # the model alone decides them


@pytest.mark.parametrize(
    ("base", "head", "comparable"),
    [
        ("worst case: 1000 boxes an image; set X", "worst case: 1000 boxes per image", True),
        ("worst case: 1000 boxes per image", "worst case: 150 boxes per image", False),
        ("worst case: 1000 boxes", "counted on cpu: it needs values", False),
        ("counted on cpu, because: rank 2", "counted on cpu, because: needs 3 dimensions", True),
        ("counted on cpu: it needs values", "counted on cuda: it needs values", False),
    ],
)
def test_what_a_note_claims_is_compared_and_not_its_wording(base: str, head: str, comparable: bool) -> None:
    old, new = (
        single(metrics={"macs": metric(10)}, findings=[finding("provenance", "warn", note)])
        for note in (base, head)
    )
    assert one(old, new).state == ("ok" if comparable else "incomparable")


def test_counts_under_another_assumption_are_incomparable() -> None:
    notes = [finding("provenance", "warn", "counted on cpu, because meta cannot run it")]
    change = one(single(metrics={"macs": metric(10)}), single(metrics={"macs": metric(10)}, findings=notes))
    assert (change.state, change.fails) == ("incomparable", True)


def test_operators_may_differ_between_versions_of_torch_and_macs_may_not() -> None:
    newer = {**ENVIRONMENT, "torch": "2.16.0"}
    base = table([row("net", macs=10, ops=5, ops_digest="a")])
    head = table([row("net", macs=11, ops=6, ops_digest="b")], newer)
    states = {c.metric: (c.state, c.fails) for c in compare(side(base), side(head)).changes}
    assert states == {
        "macs": ("regressed", True), "ops": ("incomparable", False), "ops_digest": ("incomparable", False),
    }  # fmt: skip
    same = table([row("net", macs=11, ops=6, ops_digest="b")])
    assert all(change.fails for change in compare(side(base), side(same)).changes)


def test_a_model_that_fails_in_head_is_invalid_and_says_why() -> None:
    good, bad = row("net", macs=10), row("net", macs=None, error="KeyError: x")
    change = one(table([good]), table([bad]))
    assert (change.state, change.fails, change.why) == ("invalid", True, "HEAD: KeyError: x")
    assert one(table([bad]), table([good])).state == "new"
    both = one(table([bad]), table([bad]))
    assert (both.state, both.fails) == ("incomparable", False)


@pytest.mark.parametrize(
    ("base", "head", "state"),
    [
        ("pass", "pass", "ok"),
        ("pass", "fail", "regressed"),
        ("fail", "pass", "improved"),
        ("fail", "fail", "ok"),
        ("pass", "skip", "missing"),
        ("skip", "pass", "improved"),
        ("pass", None, "missing"),
        (None, "pass", "new"),
        (None, "fail", "regressed"),
        ("warn", "fail", "regressed"),
        ("pass", "warn", "missing"),
    ],
)
def test_a_check_that_held_must_hold(base: str | None, head: str | None, state: str) -> None:
    made = [single("freeze", findings=[finding("frozen", s)] if s else []) for s in (base, head)]
    change = one(*made)
    assert (change.metric, change.state) == ("check:frozen", state)
    assert change.fails == (state in ("regressed", "missing"))


def test_the_worst_finding_of_a_check_counts() -> None:
    good = single("freeze", findings=[finding("frozen", "pass"), finding("frozen", "pass")])
    bad = single("freeze", findings=[finding("frozen", "fail"), finding("frozen", "pass")])
    assert one(good, bad).state == "regressed"


class TestBudgets:
    def test_a_budget_is_of_head_and_includes_its_edge(self) -> None:
        assert of(metric(10), metric(10), budget=["macs=10"]).state == "ok"
        change = of(metric(11), metric(11), budget=["macs=10"])
        assert (change.state, change.fails) == ("regressed", True)
        assert "over the budget of 10" in change.why

    def test_the_tightest_budget_holds(self) -> None:
        assert of(metric(5), metric(5), budget=["macs=10", "m*=4"]).state == "regressed"

    def test_what_is_unknown_keeps_no_budget(self) -> None:
        assert of(metric(None), metric(None), budget=["macs=10"]).fails
        change = of(metric(5, lower_bound=True), metric(5, lower_bound=True), budget=["macs=10"])
        assert (change.state, change.fails) == ("invalid", True)

    def test_a_budget_holds_for_a_metric_that_is_not_compared(self) -> None:
        numbers = {"macs": metric(5), "params": metric(5)}
        made = single(metrics=numbers), single(metrics={**numbers, "params": metric(9)})
        found = compare(side(made[0]), side(made[1]), rules(only=["macs"], budget=["params=8"])).changes
        assert [(c.metric, c.state) for c in found] == [("params", "regressed"), ("macs", "ok")]
        found = compare(side(made[0]), side(made[1]), rules(ignore=["params"], budget=["params=9"])).changes
        assert {c.metric: c.state for c in found} == {"macs": "ok", "params": "ok"}

    def test_a_new_model_has_budgets_too(self) -> None:
        found = compare(
            side(table([row("a", params=1)])),
            side(table([row("a", params=1), row("b", params=9)])),
            rules(budget=["params=5"]),
        )
        assert [(c.model, c.metric, c.state) for c in found.changes if c.fails] == [
            ("b", "params", "regressed")
        ]

    def test_of_a_metric_that_wants_to_be_high_it_is_the_least(self) -> None:
        high = lambda value: metric(value, "share", direction="higher")  # noqa: E731
        assert of(high(5), high(5), budget=["macs=4"]).state == "ok"
        assert of(high(5), high(5), budget=["macs=6"]).fails

    def test_a_misspelt_metric_is_an_error_not_a_budget_that_always_holds(self) -> None:
        for words in ({"budget": ["parms=5"]}, {"tolerance": ["parms=1%"]}, {"only": ["parms"]}):
            with pytest.raises(InspectError, match="names no metric") as caught:
                of(metric(1), metric(1), **words)
            assert caught.value.hint


class TestTimes:
    """Twenty pairs of rounds, taken in turn: BASE at 0, 2, 4 ... HEAD at 1, 3, 5 ..."""

    steady = [0.0100, 0.0101, 0.0099, 0.0100, 0.0102] * 4

    def of(self, factor: float, start: float = 1.0, job: str = "one", machine: Any = MACHINE) -> Change:
        slow = [second * factor for second in self.steady[::-1]]
        base = table([row("net", latency=0.01)], MACHINE, rounds=rounds("net", self.steady, 0.0))
        head = table([row("net", latency=0.01 * factor)], machine, rounds=rounds("net", slow, start, job))
        return one(base, head)

    def test_twenty_percent_slower_regresses_and_twenty_faster_improves(self) -> None:
        assert (self.of(1.2).state, self.of(1.2).fails) == ("regressed", True)
        assert self.of(1 / 1.2).state == "improved"

    def test_the_same_is_ok_and_less_than_the_least_effect_does_not_regress(self) -> None:
        assert self.of(1.0).state == "ok"
        assert self.of(1.04).state in ("ok", "noisy")

    @pytest.mark.parametrize(
        ("how", "said"),
        [({"start": 100.0}, "not in turn"), ({"job": "two"}, "two jobs")],
    )
    def test_rounds_not_taken_in_turn_in_one_job_are_only_reported(self, how: Any, said: str) -> None:
        change = self.of(2.0, **how)
        assert (change.state, change.fails) == ("noisy", False)
        assert said in change.why

    def test_a_coin_decides_how_many_pairs_must_agree(self) -> None:
        # Of 2**20 ways: 1 with 20 heads, 20 with 19, 190 with 18, 1140 with 17.
        assert chance(18, 20) == 211 / 2**20 < CHANCE
        assert chance(17, 20) == 1351 / 2**20 > CHANCE
        assert chance(12, 12) == 1 / 4096 < CHANCE < chance(11, 11)

    def test_eleven_pairs_are_too_few_however_far_apart(self) -> None:
        few = table([row("net", latency=1.0)], MACHINE, rounds=rounds("net", [1.0] * 11, 0.0))
        slow = table([row("net", latency=9.0)], MACHINE, rounds=rounds("net", [9.0] * 11, 1.0))
        assert one(few, slow).state == "noisy"

    def test_one_slow_round_in_twenty_does_not_regress(self) -> None:
        spiky = [*self.steady[1:], 5.0]
        base = table([row("net", latency=0.01)], MACHINE, rounds=rounds("net", self.steady, 0.0))
        head = table([row("net", latency=0.01)], MACHINE, rounds=rounds("net", spiky, 1.0))
        assert one(base, head).state in ("ok", "noisy")

    @pytest.mark.parametrize(("slower", "fails"), [(1.0, 0), (1.1, 100)])
    def test_a_hundred_runs_of_rounds_with_two_percent_of_noise(self, slower: float, fails: int) -> None:
        # A small sample of benchmarks/diff_power.py; a neighbour's load comes and goes on both sides alike.
        draw = random.Random(0)
        states = []
        for _ in range(100):
            load = [1 + 0.5 * (draw.random() < 0.2) for _ in range(30)]
            base = [busy * draw.gauss(1, 0.02) for busy in load]
            head = [busy * draw.gauss(1, 0.02) * slower for busy in load]
            states.append(decide(base, head, effect=0.05).state)
        assert states.count("regressed") == fails

    def test_another_torch_in_the_same_job_is_compared(self) -> None:
        assert self.of(1.2, machine={**MACHINE, "torch": "2.16.0"}).state == "regressed"

    def test_another_machine_is_incomparable_and_does_not_fail(self) -> None:
        change = self.of(2.0, machine={**MACHINE, "gpu": "H100"})
        assert (change.state, change.fails) == ("incomparable", False)

    def test_a_time_without_rounds_is_only_reported(self) -> None:
        made = [single("bench", {"latency": metric(s, "s", "noisy")}) for s in (0.01, 0.02)]
        change = one(*made)
        assert (change.state, change.fails) == ("noisy", False)


def test_other_states_can_be_made_to_fail_or_none() -> None:
    base, head = (side(content) for content in eight_states())
    assert compare(base, head, rules(fail_on="none")).verdict == "pass"
    found = compare(base, head, rules(fail_on="new,improved"))
    assert {change.state for change in found.changes if change.fails} == {"new", "improved"}


def test_metrics_can_be_chosen_and_left_out() -> None:
    numbers = {"macs": metric(1), "params": metric(1)}, {"macs": metric(2), "params": metric(2)}
    made = [single(metrics=both) for both in numbers]
    assert one(*made, only=["macs"]).metric == "macs"
    assert one(*made, ignore=["mac*"]).metric == "params"


def test_two_commands_are_not_compared() -> None:
    with pytest.raises(InspectError, match=r"a profile report, .* a bench report"):
        one(single("profile"), single("bench"))


def test_nothing_to_compare_is_no_pass() -> None:
    assert compare(side(single()), side(single())).verdict == "none"
