"""Which operators have a formula, under which names, and how a user adds one."""

import importlib
import inspect

import pytest
import torch
import torchvision  # noqa: F401  registers its operators

import inspector
from inspector.tracing.formulas import REGISTRY, cost, find
from inspector.tracing.record import TensorSpec

ELSEWHERE = {
    "_c10d_functional._wrap_tensor_autograd",
    "aten._fused_rms_norm_backward",
    "aten._scaled_mm_v2",
    "aten.sym_is_contiguous",
    "fsdp.chunk_cat_mixed_dtype",
    "transformers.grouped_mm_fallback",
}
"""Operators that torch 2.8 does not have, and one that transformers registers when it runs there."""

PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "quanto": "optimum.quanto",
    "quantized_decomposed": "torch.ao.quantization.fx._decomposed",
    "torchao": "torchao.quantization",
}
"""Who registers the operators with these prefixes."""


def importable(package):
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module")
def absent():
    """Prefixes whose package is not installed. The others are imported: here, and not by all who collect."""
    return {space for space, package in PACKAGES.items() if not importable(package)}


@pytest.fixture
def schemas(absent):
    """Those of operators that have a formula."""
    every = torch._C._jit_get_all_schemas()
    return [schema for schema in every if find(schema.name.replace("::", ".")) is not None]


def exists(name):
    space, operator = name.split(".", 1)
    if space == "higher_order":
        from torch._higher_order_ops import flex_attention  # noqa: F401  registers itself
    operators = getattr(torch.ops, space)
    return hasattr(operators, operator) or hasattr(operators, f"{operator}_")


def test_every_registered_name_is_an_operator(absent):
    missing = {name for name in REGISTRY if name.split(".")[0] not in absent and not exists(name)}
    assert missing <= ELSEWHERE


def is_destination(argument):
    return argument.alias_info is not None and argument.alias_info.is_write


@pytest.mark.parametrize("given", ["required", "all"])
def test_every_formula_takes_the_arguments_of_every_overload(given, schemas):
    """A formula that does not fit is silently unknown: `cost` returns None for it."""
    misfits = []
    assert len(schemas) > 500
    for schema in schemas:
        arguments = [a for a in schema.arguments if given == "all" or not a.has_default_value()]
        positional = [a for a in arguments if not a.kwarg_only]
        named = {a.name: a for a in arguments if a.kwarg_only and not is_destination(a)}
        formula = find(schema.name.replace("::", "."))
        try:
            inspect.signature(formula).bind(None, *positional, **named)
        except TypeError as error:
            misfits.append(f"{schema.name}.{schema.overload_name}: {error}")
    assert not misfits


def test_unknown_operator_costs_none_and_not_zero():
    spec = TensorSpec((2, 3), "float32")
    assert cost("nobody.knows_this", spec, (spec,), {}) is None


def test_call_that_does_not_fit_its_formula_costs_none():
    assert cost("aten.mm", TensorSpec((2, 3), "float32"), (), {}) is None


@pytest.mark.parametrize("name", ["aten.mul", "aten.relu", "aten.index_add", "aten.baddbmm"])
def test_in_place_form_shares_the_formula(name):
    assert find(f"{name}_") is find(name) is not None


@pytest.fixture
def twice():
    """A user's operator, 2 * x @ y, and its name."""

    @torch.library.custom_op("inspector_tests::twice", mutates_args=())
    def twice(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 2 * x @ y

    @twice.register_fake
    def _(x, y):
        return x.new_empty(x.shape[0], y.shape[1])

    yield twice
    REGISTRY.pop("inspector_tests.twice", None)


def test_operator_of_a_user_is_unknown_until_its_formula_is_registered(twice, ops, count, meta):
    found = [op for op in ops(twice, meta(2, 3), meta(3, 4)) if op.name == "inspector_tests.twice"]
    assert [(op.macs, op.pointwise_flops) for op in found] == [(None, None)]

    @inspector.formula("inspector_tests.twice")
    def formula(out, x, y):
        return inspector.Cost(macs=out.numel * x.shape[1], pointwise=x.numel, activations=out.numel)

    counted = count(twice, meta(2, 3), meta(3, 4))
    assert (counted.macs, counted.pointwise, counted.activations) == (2 * 3 * 4, 2 * 3, 2 * 4)
