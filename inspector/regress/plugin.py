"""The pytest plugin: `inspect_model` counts a model in a test, the mark `inspect` says what must hold.

Registered as the entry point `pytest11`; nothing heavy is imported before a test counts a model.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inspector.core.errors import InspectError

MARK = "inspect"
LIMITS = "max_"
_TAKEN = ("baseline", "tolerance")
_ROWS = pytest.StashKey[dict[str, Any]]()
_CHECKED = pytest.StashKey[set[str]]()
_SENT = "inspect_rows"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("inspect", "models that must not grow")
    group.addoption(
        "--inspect-update-baseline",
        action="store_true",
        help="write what inspect_model counts into the baselines of the marks",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "inspect(max_params=, max_macs=, max_..., baseline=FILE, tolerance=['macs=1%']): what must hold of"
        " the models that the test gives to inspect_model",
    )
    config.stash[_ROWS] = {}
    config.pluginmanager.register(_Gather(config), "inspect_gather")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A mark that nothing can check must not look like a test that passed."""
    if item.get_closest_marker(MARK) and "inspect_model" not in getattr(item, "fixturenames", ()):
        pytest.fail("the mark inspect needs the fixture inspect_model in the test", pytrace=False)


@pytest.fixture
def inspect_model(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Count a model and check it against the test's mark: `inspect_model(model, inputs, name=...)`.

    model: an nn.Module or a spec, inputs and options as `inspector.profile` takes them. `name` is its row in
    the baseline; default: the test's own name. Returns the Report of `inspector.profile`.
    """
    mark = request.node.get_closest_marker(MARK)
    checked = _Checked(request, dict(mark.kwargs) if mark else {})
    request.node.stash[_CHECKED] = checked.names
    return checked.check


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that passes without having given a model to a fixture that its mark relies on, fails."""
    yield
    if item.get_closest_marker(MARK) and not item.stash.get(_CHECKED, set()):
        pytest.fail("the test is marked inspect, but it gave no model to inspect_model", pytrace=False)


class _Checked:
    """The models of one test."""

    def __init__(self, request: pytest.FixtureRequest, rules: dict[str, Any]) -> None:
        self.node, self.config, self.names = request.node, request.config, set[str]()
        unknown = [key for key in rules if key not in _TAKEN and not key.startswith(LIMITS)]
        if unknown:
            pytest.fail(
                f"the mark inspect takes no {unknown[0]!r}, only max_METRIC, {', '.join(_TAKEN)}",
                pytrace=False,
            )
        self.budgets = [
            f"{key.removeprefix(LIMITS)}={value}" for key, value in rules.items() if key.startswith(LIMITS)
        ]
        tolerance = rules.get("tolerance", ())
        self.tolerance = [tolerance] if isinstance(tolerance, str) else list(tolerance)
        file = rules.get("baseline")
        self.baseline = self.node.path.parent / file if file is not None else None

    def check(self, model: Any, inputs: Any = None, *, name: str | None = None, **how: Any) -> Any:
        __tracebackhide__ = True
        try:
            return self._checked(model, inputs, name or self._own_name(), how)
        except InspectError as error:
            pytest.fail(f"{error.message}\nhint: {error.hint}", pytrace=False)

    def _own_name(self) -> str:
        file, _, test = self.node.nodeid.partition("::")
        return f"{Path(file).name}::{test}"

    def _checked(self, model: Any, inputs: Any, name: str, how: dict[str, Any]) -> Any:
        from inspector.regress.sweep.live import row_of

        if name in self.names:
            raise InspectError(f"two models of the test are called {name!r}", "give each a name=")
        self.names.add(name)
        report, content = row_of(model, inputs, name, **how)
        updating = self.config.getoption("--inspect-update-baseline") and self.baseline is not None
        if updating:
            rows = self.config.stash[_ROWS].setdefault(str(self.baseline), [])
            rows.append(content)
        self._hold(content, name, None if updating else self.baseline)
        return report

    def _hold(self, content: dict[str, Any], name: str, baseline: Path | None) -> None:
        """Fail the test where HEAD is over a budget or worse than its row of the baseline."""
        from inspector.regress.annotations import failed_test
        from inspector.regress.compare import compare
        from inspector.regress.rules import rules
        from inspector.regress.source import live, read

        __tracebackhide__ = True
        if baseline is None and not self.budgets:
            return
        head = live(content, name)
        base = head
        if baseline is not None:
            base = read(str(baseline))
            if base.command != "table" or name not in base.rows:
                raise InspectError(
                    f"{baseline.name} has no row {name!r}", "write it: pytest --inspect-update-baseline"
                )
            base.rows = {name: base.rows[name]}
        allowed = rules(tolerance=self.tolerance, budget=self.budgets)
        found = compare(base, head, allowed)
        if found.verdict == "fail":
            pytest.fail(failed_test(found, allowed, name, self._accepting()), pytrace=False)

    def _accepting(self) -> str:
        """The command that writes what this test counts into its baseline, to be run where pytest was."""
        where = os.path.relpath(self.node.path, self.config.invocation_params.dir)
        test = "::".join([where, *self.node.nodeid.split("::")[1:]])
        return f"pytest {shlex.quote(test)} --inspect-update-baseline"


class _Gather:
    """Under xdist the workers send their rows to the controller, which alone writes."""

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.rows, self.written = config, config.stash[_ROWS], list[str]()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        for file, rows in getattr(node, "workeroutput", {}).get(_SENT, {}).items():
            self.rows.setdefault(file, []).extend(rows)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput[_SENT] = dict(self.rows)
            return
        for file, rows in sorted(self.rows.items()):
            self.written.append(f"{file}: {_merge(Path(file), rows)}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for line in self.written:
            terminalreporter.write_line(f"inspect: updated {line}")


def _merge(file: Path, rows: list[dict[str, Any]]) -> str:
    """Write the rows into the baseline, in the order of their names where they are new; names them."""
    from inspector.core.files import write_whole
    from inspector.regress.baseline import merged_tables
    from inspector.regress.source import live, read
    from inspector.reporting.schema import as_text

    rows = sorted(rows, key=lambda content: str(content["tables"]["models"][0]["model"]))
    try:
        content = read(str(file)).content if file.exists() else None
        for row in rows:
            name = row["tables"]["models"][0]["model"]
            live(row, name)
            content = row if content is None else merged_tables(content, row, {name})
        if content is not None:
            write_whole(file, as_text(content) + "\n")
    except InspectError as error:
        raise pytest.UsageError(f"{error.message} (hint: {error.hint})") from error
    return ", ".join(str(row["tables"]["models"][0]["model"]) for row in rows)
