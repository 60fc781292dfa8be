"""How a model is called: plain values, a method in place of the forward, and what comes back."""

from __future__ import annotations

import copy
import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector import InspectError, profile
from inspector.models.copies import copied
from inspector.models.inputs import Inputs, as_inputs, parse_inputs
from inspector.models.small import with_batch
from inspector.tracing.capture import ForwardError
from inspector.tracing.values import batch_size
from tests.conftest import Run


class Branches(nn.Module):
    """8 to 8 by a linear layer, or by a convolution three wide."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.conv = nn.Conv1d(8, 8, 3)

    def forward(self, x: Tensor, mode: str = "linear") -> Tensor:
        return self.linear(x) if mode == "linear" else self.conv(x.transpose(1, 2))

    def encode(self, x: Tensor) -> Tensor:
        return self.linear(self(x))


LINEAR = 2 * 5 * 8 * 8
CONV = 2 * 3 * 8 * 8 * 3  # 5 positions less 2


def macs(*args: Any, **keywords: Any) -> Any:
    return profile(*args, **keywords).metrics["macs"].value


class TestPlainValues:
    def test_a_string_among_call_arguments_is_a_value(self) -> None:
        x = torch.randn(2, 5, 8)
        assert macs(Branches(), {"x": x, "mode": "conv"}) == CONV
        assert macs(Branches(), (x, "conv")) == CONV
        assert macs(Branches(), ((x,), {"mode": "conv"})) == CONV
        assert macs(Branches(), ([x], {"mode": "3"})) == CONV  # any other word is the convolution
        assert macs(Branches(), {"x": x, "mode": "linear"}) == LINEAR

    def test_strings_alone_are_the_grammar(self) -> None:
        assert as_inputs("1x3") == as_inputs(["1x3"]) == parse_inputs(["1x3"])
        assert as_inputs(("1x3",)) == Inputs(("1x3",))
        assert macs(Branches(), ["2x5x8", "mode:=conv"]) == CONV
        assert macs(Branches(), ["2x5x8", ":=conv"]) == CONV

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("a:=false", False), ("a:=2.0", 2.0), ("a:=3", 3), ("a:=conv", "conv"), ("a:='3'", "3"),
            ("a:=[8, 16]", [8, 16]), ("a:=", None), ("a := 1x3", "1x3"), ("a:={b: 1}", {"b": 1}),
        ],
    )  # fmt: skip
    def test_they_are_yaml(self, text: str, value: Any) -> None:
        assert parse_inputs([text]).kwargs == {"a": value}

    def test_what_is_no_yaml_is_one_line(self) -> None:
        with pytest.raises(InspectError, match="the value is not YAML"):
            parse_inputs(["a:=[1"])

    def test_they_join_the_default_input(self, tmp_path: Path, inspect: Run) -> None:
        file = tmp_path / "net.py"
        file.write_text(
            "import torch\nfrom tests.models.test_calls import Branches\n"
            "def example_inputs():\n    return torch.randn(2, 5, 8)\n"
        )
        code, out, err = inspect("profile", f"{file}:Branches", "--arg", "mode=conv", "--format", "json")
        assert code == 0, err
        content = json.loads(out)
        assert content["metrics"]["macs"]["value"] == CONV
        assert content["subject"]["inputs"] == ["float32[2,5,8]", 'mode:="conv"']
        code, out, _ = inspect(
            "profile", f"{file}:Branches", "--input", "2x5x8", "--arg", "mode=linear", "--format", "json"
        )
        assert json.loads(out)["metrics"]["macs"]["value"] == LINEAR

    @pytest.mark.parametrize("command", ["freeze", "init", "bench", "memory", "report"])
    def test_they_join_it_in_every_command(self, command: str, tmp_path: Path, inspect: Run) -> None:
        file = tmp_path / "net.py"
        file.write_text(
            "import torch\nfrom torch import nn\n"
            "def example_inputs():\n    return torch.randn(2, 8)\n"
            "class Net(nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.linear = nn.Linear(8, 8)\n"
            "    def forward(self, x, sizes):\n        assert sizes == [3]\n        return self.linear(x)\n"
        )
        own = {
            "freeze": ["--pattern", "linear.bias", "--no-ddp"], "init": ["--propagation"], "memory": [],
            "bench": ["--device", "cpu", "--precision", "fp32", "--mode", "infer", "--seconds", "0.3",
                      "--batch", "2"],
            "report": [],
        }[command]  # fmt: skip
        words = [command, f"{file}:Net", *own, "--arg", "sizes=[3]", "--format", "json"]
        code, out, err = inspect(*words)
        assert code == 0, err
        assert not [f for f in json.loads(out)["findings"] if f["status"] == "fail"]

    def test_a_plain_list_is_no_batch(self) -> None:
        inputs = parse_inputs(["1x8", "sizes:=[3]", "images=[3x4x4]"])
        batched = with_batch(inputs, 4)
        assert batched.kwargs["sizes"] == [3]
        assert len(batched.kwargs["images"]) == 4
        assert batch_size((), {"sizes": [3], "x": torch.zeros(4, 1)}) == 4

    def test_bad_ones_are_one_line(self, inspect: Run) -> None:
        code, _, err = inspect("profile", "resnet18", "--arg", "x")
        assert (code, "cannot read --arg 'x'" in err, "hint: write name=value" in err) == (2, True, True)

    def test_a_report_with_them_is_compared_with_its_model_again(self, tmp_path: Path, inspect: Run) -> None:
        base = tmp_path / "base.json"
        spec = "tests.models.test_calls:Branches"
        words = [spec, "--input", "2x5x8", "--arg", "mode=conv"]
        assert inspect("profile", *words, "--output", base)[0] == 0
        assert inspect("diff", base, spec)[0] == 0


class TestMethods:
    def test_a_method_with_the_modules_that_it_uses(self) -> None:
        report = profile(Branches(), torch.randn(2, 5, 8), call="encode")
        assert report.metrics["macs"].value == 2 * LINEAR  # itself, and the forward that it calls
        assert report.subject["call"] == "encode"
        trained = profile(Branches(), torch.randn(2, 5, 8), call="encode", phase="train")
        # backward: the weight of both calls, and the input of the second
        assert trained.metrics["macs"].value == 2 * LINEAR + 3 * LINEAR

    def test_the_model_stays_as_it_was(self) -> None:
        model = Branches()
        attributes = dict(model.__dict__)
        profile(model, torch.randn(2, 5, 8), call="encode")
        assert model.__dict__ == attributes
        assert macs(model, torch.randn(2, 5, 8)) == LINEAR

    def test_one_that_is_not_there_is_one_line(self, inspect: Run) -> None:
        with pytest.raises(InspectError) as error:
            profile(Branches(), "2x5x8", call="encod")
        assert error.value.message == "Branches has no method 'encod'"
        assert error.value.hint == "did you mean encode?"
        words = ["tests.models.test_calls:Branches", "--input", "2x5x8", "--call", "linear"]
        code, _, err = inspect("profile", *words)
        assert (code, "has no method 'linear'" in err) == (2, True)

    def test_commands_that_run_a_model(self, inspect: Run, tmp_path: Path) -> None:
        words = ["tests.models.test_calls:Branches", "--input", "2x5x8", "--call", "encode"]
        bench = ["bench", "--device", "cpu", "--precision", "fp32", "--mode", "infer", "--batch", "2"]
        for command in (
            ["profile"], ["reconcile", "--counter", "torch"], ["memory"], ["report"],
            [*bench, "--seconds", "0.3"],
        ):  # fmt: skip
            code, out, err = inspect(command[0], *words, *command[1:], "--format", "json")
            assert code == 0, err
            content = json.loads(out)
            assert content["subject"]["call"] == "encode"
            if command[0] != "report":
                shown = inspect(command[0], *words, *command[1:])[1]
                assert re.search(r"^call +encode$", shown, re.MULTILINE)
            if command[0] == "reconcile":
                assert {row["macs"] for row in content["tables"]["counters"]} == {2 * LINEAR}

    def test_a_row_of_a_table(self, tmp_path: Path, inspect: Run) -> None:
        file = tmp_path / "list.yaml"
        spec = "tests.models.test_calls:Branches"
        file.write_text(
            f"- {{model: '{spec}', name: forward, input: 2x5x8}}\n"
            f"- {{model: '{spec}', name: encode, input: 2x5x8, call: encode}}\n"
        )
        code, out, err = inspect("table", file, "--format", "json")
        assert code == 0, err
        rows = json.loads(out)["tables"]["models"]
        assert [(row["model"], row["macs"]) for row in rows] == [("forward", LINEAR), ("encode", 2 * LINEAR)]
        base = tmp_path / "base.json"
        assert inspect("table", file, "--output", base)[0] == 0
        assert inspect("diff", base)[0] == 0
        shown = inspect("table", spec, "--input", "2x5x8", "--call", "encode")[1]
        assert f"{spec}.encode()" in shown

    def test_two_methods_are_two_questions(self) -> None:
        x = torch.randn(2, 5, 8)
        outcome = inspector.diff(profile(Branches(), x), profile(Branches(), x, call="encode"))
        states = {row["metric"]: row["state"] for row in outcome.tables["rows"].records()}
        assert states["macs"] == "incomparable"


class Slots:
    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value = value


class Wrapping(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.linear(x))


class TestOutputs:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda y: types.SimpleNamespace(deep={"y": [y]}),
            lambda y: torch.distributions.Normal(y, 1.0),
            lambda y: torch.distributions.Independent(torch.distributions.Normal(y, 1.0), 1),
            lambda y: torch.complex(y, y),
            Slots,
            lambda y: {Slots(y)},
        ],
    )
    def test_they_are_searched_in_any_object(self, wrap: Any) -> None:
        report = profile(Wrapping(wrap), torch.randn(3, 4), phase="train")
        assert report.metrics["macs"].value == 2 * 3 * 4 * 4  # forward, and the weight's gradient

    @pytest.mark.parametrize("phase", ["forward", "train"])
    def test_an_iterator_is_refused(self, phase: str) -> None:
        with pytest.raises(ForwardError, match="a generator gives its values once"):
            profile(Wrapping(lambda y: (part for part in y)), torch.randn(3, 4), phase=phase)

    def test_no_gradient_is_said_where_it_is_true(self) -> None:
        with pytest.raises(ForwardError, match="no output requires grad"):
            profile(Wrapping(torch.Tensor.detach), torch.randn(3, 4), phase="train")


class Stateful(nn.Module):
    """Grows what it is given, as a cache of keys and values grows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, state: Any, fails: bool = False) -> Tensor:
        state.keys = torch.cat([state.keys, x])
        state.lengths.append(len(state.keys))
        state.table["last"] = x
        x.add_(1)
        if fails:
            raise ValueError("planted")
        return self.linear(state.keys)


def _state() -> types.SimpleNamespace:
    return types.SimpleNamespace(keys=torch.randn(3, 4), lengths=[3], table={"first": torch.ones(1)})


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.device == other.device and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return _same(vars(one), vars(other)) if hasattr(one, "__dict__") else bool(one == other)


COMMANDS = {
    "profile": lambda model, inputs: inspector.profile(model, inputs),
    "train": lambda model, inputs: inspector.profile(model, inputs, phase="train"),
    "cpu": lambda model, inputs: inspector.profile(model, inputs, device="cpu"),
    "memory": lambda model, inputs: inspector.memory(model, inputs),
    "reconcile": lambda model, inputs: inspector.reconcile(model, inputs, counters=["torch"]),
    "page": lambda model, inputs: inspector.page(model, inputs),
    "page, timed": lambda model, inputs: inspector.page(model, inputs, time="cpu"),
    "bench": lambda model, inputs: inspector.bench(
        model, inputs, precisions=["fp32"], modes=["infer"], batches=[3], device="cpu", seconds=0.2
    ),
    "freeze": lambda model, inputs: inspector.freeze(model, patterns=["linear.bias"], inputs=inputs),
}  # fmt: skip


class TestArguments:
    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize("fails", [False, True])
    def test_the_callers_objects_are_never_changed(self, command: str, fails: bool) -> None:
        arguments = (torch.randn(3, 4), _state(), fails)
        before = copy.deepcopy(arguments)
        try:
            COMMANDS[command](Stateful(), arguments)
        except InspectError:
            assert fails or command == "freeze"
        assert _same(list(arguments), list(before))

    def test_counting_twice_gives_one_number(self) -> None:
        arguments = (torch.randn(3, 4), _state())
        assert [macs(Stateful(), arguments) for _ in range(2)] == [6 * 4 * 4] * 2

    def test_tensors_move_at_any_depth(self) -> None:
        state = _state()
        state.more = {"slots": [Slots(torch.ones(2))]}
        twin = copied(((state,), {"again": state}), "meta")
        moved = twin[0][0]
        assert twin[1]["again"] is moved
        inner = (moved.keys, moved.table["first"], moved.more["slots"][0].value)
        assert {tensor.device.type for tensor in inner} == {"meta"}
        assert state.keys.device.type == "cpu"

    def test_what_is_the_same_object_stays_the_same(self) -> None:
        class Same(nn.Module):
            def forward(self, x: Tensor, y: Tensor, box: list[Tensor]) -> Tensor:
                assert x is y is box[0]
                return x @ y

        x = torch.randn(4, 4)
        assert macs(Same(), (x, x, [x])) == 64

    def test_an_input_with_a_history_can_be_changed_in_place(self) -> None:
        class InPlace(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(4, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.linear(x.mul_(2))

        leaf = torch.randn(3, 4, requires_grad=True)
        assert macs(InPlace(), leaf.clone(), phase="train") == 3 * 48  # the input's gradient, too
        with pytest.raises(ForwardError, match="leaf"):
            profile(InPlace(), leaf, phase="train")
        assert leaf.grad is None

    def test_a_generator_of_random_numbers_is_copied(self) -> None:
        class Noise(nn.Module):
            def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
                return x @ torch.rand(x.shape, generator=generator, device=x.device).T

        generator = torch.Generator().manual_seed(3)
        state = generator.get_state()
        for device in ("meta", "cpu"):
            assert macs(Noise(), (torch.randn(3, 4), generator), device=device) == 36
        assert torch.equal(generator.get_state(), state)

    def test_what_cannot_be_copied_is_one_line(self) -> None:
        def once() -> Iterator[int]:
            yield 1

        with pytest.raises(InspectError, match="an input cannot be copied"):
            profile(Stateful(), (torch.randn(3, 4), once()))


def test_generating_is_a_prefill_and_one_pass_a_token(tmp_path: Path) -> None:
    # One layer and token: q and o 64 * 64 each, k and v 64 * 32 each, three of 64 * 128: 36,864. 16 tokens
    # at once, then 3 that see 17, 18 and 19 keys; a token's head costs 64 * 100.
    pytest.importorskip("transformers")
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 256,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = torch.ones(1, 16, dtype=torch.int64)
    inputs = {"input_ids": ids, "max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    trace = inspector.trace(f"hf:{tmp_path}", inputs, call="generate")
    linear = 2 * 36_864 * (16 + 3) + 4 * 6_400
    attention = 2 * 2 * 64 * (16 * 16 + 17 + 18 + 19)
    assert sum(op.macs or 0 for op in trace.ops) == linear + attention
    assert not [op.name for op in trace.ops if not op.known]
