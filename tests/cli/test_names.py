"""An option of a command and the keyword of its function have one name and one default."""

from __future__ import annotations

import inspect as signatures
from importlib import import_module
from importlib.util import find_spec
from typing import Any, get_args

import pytest
import typer

from inspector.cli import choices, ddp, freeze, memory, reconcile, scale
from inspector.cli.command import OWN
from inspector.cli.main import COMMANDS, app
from inspector.core import spec as core_spec

pytestmark = pytest.mark.once

ONLY_KEYWORDS = {
    "tell": "what the command line's progress bar hears",
    "trainer": "a class of one's own is Python",
}
OTHER_NAMES = {
    "added": ("--with", "with is a word of Python's own"),
    "settings": ("--set", "one setting each time"),
}
OTHER_DEFAULTS = {
    ("profile", "cache"): "formulas that a program registers are not in the key of a cached trace",
}
SEVERAL = {
    "inputs",
    "args",
    "model_args",
    "stages",
    "patterns",
    "counters",
    "precisions",
    "modes",
    "batches",
    "ranks",
}
"""Keywords of several values, whose option gives one of them at a time."""

options = pytest.mark.parametrize("name", COMMANDS)


def keywords_of(name: str) -> dict[str, signatures.Parameter]:
    """Of the function that the command calls."""
    module, _, function = getattr(import_module(f"inspector.cli.{name}"), name).function.partition(":")
    return dict(signatures.signature(getattr(import_module(f"inspector.{module}"), function)).parameters)


def parameters_of(name: str) -> dict[str, Any]:
    """Options and arguments of the command, as the parser has them."""
    group: Any = typer.main.get_command(app)
    return {parameter.name: parameter for parameter in group.get_command(None, name).params}


@options
def test_the_function_has_every_option_and_the_command_every_keyword(name: str) -> None:
    keywords, parameters = set(keywords_of(name)), set(parameters_of(name))
    assert parameters - keywords <= set(OWN)
    assert keywords - parameters <= set(ONLY_KEYWORDS)


@options
def test_an_option_is_called_as_its_keyword(name: str) -> None:
    for keyword, parameter in parameters_of(name).items():
        if parameter.param_type_name == "argument":
            continue
        same = f"--{keyword.replace('_', '-')}"
        names = {same.removesuffix("s"), same.removesuffix("es")} if keyword in SEVERAL else {same}
        names = {OTHER_NAMES[keyword][0]} if keyword in OTHER_NAMES else names
        assert max(parameter.opts, key=len) in names
        assert parameter.secondary_opts in ([], [same.replace("--", "--no-")])


@options
def test_an_option_has_the_default_of_its_keyword(name: str) -> None:
    keywords = keywords_of(name)
    for keyword, parameter in parameters_of(name).items():
        if keyword in keywords and (name, keyword) not in OTHER_DEFAULTS and parameter.default is not None:
            assert parameter.default == keywords[keyword].default, keyword


def test_the_choices_are_those_of_the_rooms() -> None:
    from inspector import counters
    from inspector.benchmarking import precisions, report
    from inspector.footprint import OPTIMIZERS
    from inspector.footprint import question as footprint
    from inspector.footprint.report import SHARDS
    from inspector.freezing.plan import NORMS
    from inspector.freezing.schemes import SCHEMES as COUNTINGS
    from inspector.initialization.schemes import SCHEMES
    from inspector.models.catalogue import SOURCES
    from inspector.profiling.report import GROUPINGS
    from inspector.profiling.views.bounds import PRECISIONS
    from inspector.regress.rules import STATES
    from inspector.regress.sweep.engines import ENGINES
    from inspector.regress.sweep.table import MEASURES
    from inspector.reporting.formats import FORMATS
    from inspector.scaling import layout
    from inspector.tracing.capture import PHASES
    from inspector.tracing.capture.kernels import ATTENTION

    for declared, known in (
        (choices.Phase, PHASES), (choices.Grouping, GROUPINGS), (choices.Format, FORMATS),
        (choices.Dtype, PRECISIONS), (choices.Dtype, footprint.DTYPES), (choices.Counter, counters.NAMES),
        (choices.Counted, [*counters.NAMES, "published"]), (choices.Optimizer, OPTIMIZERS),
        (choices.Attention, ATTENTION), (choices.Sharding, SHARDS), (choices.Counting, COUNTINGS),
        (choices.Norm, NORMS), (choices.Scheme, SCHEMES), (choices.Expected, ["auto", *SCHEMES]),
        (choices.Precision, precisions.PRECISIONS), (choices.Mode, report.MODES),
        (choices.Scattering, layout.SHARDS), (choices.Stepping, layout.OPTIMIZERS),
        (choices.Half, layout.DTYPES), (choices.Piping, layout.SCHEDULES), (choices.Measured, MEASURES),
        (choices.Source, SOURCES), (choices.Engine, ENGINES), (choices.State, [*STATES, "none"]),
    ):  # fmt: skip
        assert set(get_args(declared)) == set(known)


@pytest.mark.parametrize(
    ("spec", "library"),
    [("resnet50", ("torchvision",)), ("resnet50@DEFAULT", ("torchvision",)), ("timm:resnet18", ("timm",)),
     ("torchvision:vit_b_16", ("torchvision",)), ("net.py:build", ()), ("package.net:Net", ()),
     ("model.pt2", ()), ("hf:folder", ())],
)  # fmt: skip
def test_the_library_that_builds_a_model_is_read_from_its_spec(spec: str, library: tuple[str, ...]) -> None:
    assert core_spec.library(spec) == library


def test_what_is_imported_beside_a_command_exists() -> None:
    keywords = {"model": "resnet50", "verify": True, "ddp": True, "world_size": 8}
    for early in (freeze.training, reconcile.counting, scale.simulating, memory.simulating, ddp.training):
        for name in early(keywords):
            module, _, function = name.partition(":")
            assert find_spec(module)
            assert not function or callable(getattr(import_module(module), function))
    assert freeze.training({**keywords, "ddp": False}) == ()
    assert memory.simulating({**keywords, "world_size": None}) == ()
    assert ddp.training({**keywords, "nnodes": 2}) == ()
