"""Rows of a table on a Ray or Dask cluster: a local one of two workers, where the packages are installed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inspector.core.errors import InspectError
from inspector.core.forking import Nursery
from inspector.regress.sweep import engines, table
from inspector.regress.sweep.pool import sweep
from inspector.regress.sweep.row import Entry
from tests.regress.test_table import specs, zoo  # noqa: F401  # a fixture

pytestmark = pytest.mark.once
ROOT = str(Path(__file__).parents[2])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def dask() -> Iterator[str]:
    """The address of a scheduler with two workers, which gives up a task whose worker dies once."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def ray() -> Iterator[str]:
    """The address of a head node with two CPUs."""
    pytest.importorskip("ray", reason="ray is not installed")
    address = f"127.0.0.1:{free_port()}"
    words = [
        "start",
        "--head",
        "--num-cpus=2",
        "--include-dashboard=false",
        "--disable-usage-stats",
        "--block",
    ]
    words += [f"--port={address.rpartition(':')[2]}", "--node-ip-address=127.0.0.1"]
    path = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words], env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as head:  # fmt: skip
        deadline = time.monotonic() + 60
        while head.poll() is None and time.monotonic() < deadline:
            try:
                engines.reachable(address, "")
                break
            except InspectError:
                time.sleep(0.3)
        yield address
        head.terminate()


@pytest.fixture(params=engines.ENGINES)
def cluster(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(engine, address) of each."""
    return request.param, request.getfixturevalue(request.param)


def on(cluster: tuple[str, str], models: list[str], **how: Any) -> dict[str, dict[str, Any]]:
    engine, address = cluster
    result = table.table(models, engine=engine, address=address, **how)
    return {row["model"]: row for row in result.tables["models"].records()}


def test_a_cluster_gives_what_this_process_gives_and_outlives_a_model_that_kills_its_worker(
    cluster: tuple[str, str],
    zoo: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(zoo.parent)  # the workers are elsewhere, and get the whole path
    models = [f"{zoo.name}:{name}" for name in ("good", "bad", "dies", "noisy")]
    rows = on(cluster, models)
    assert list(rows) == models
    assert rows[models[0]]["macs"] == 2 * 4 * 5  # two samples, 4 x 5 weights
    assert "no such layer" in rows[models[1]]["error"]
    assert "process died" in rows[models[2]]["error"]
    alone = {row["model"]: row for row in table.table([models[0], models[3]]).tables["models"].records()}
    assert {name: rows[name] for name in alone} == alone


def test_an_interrupt_keeps_the_rows_and_a_resume_counts_the_others(
    cluster: tuple[str, str],
    zoo: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    engine, address = cluster
    asked = [Entry(name, spec) for name, spec in zip("abc", specs(zoo, "good", "noisy", "good"))]
    journal, told = tmp_path / "journal", []

    def interrupt(what: str, share: float) -> None:
        told.append(what)
        if len(told) == 2:  # the first is in the journal; the second is told before it is
            raise KeyboardInterrupt

    how: dict[str, Any] = {"engine": engine, "address": address, "journal": journal}
    with pytest.raises(KeyboardInterrupt):
        sweep(asked, tell=interrupt, **how)
    assert len(journal.read_text().splitlines()) == 2  # the question, and a row
    again: list[str] = []
    rows = sweep(asked, resume=True, tell=lambda what, share: again.append(what), **how)
    assert sorted([told[0], *again]) == ["a", "b", "c"]
    assert [row.row["macs"] for row in rows] == [40, 48, 40]
    assert not journal.exists()


def impatient(words: list[str]) -> int:
    """The command with less patience, in a process of its own: what fails there may write to the end."""
    from inspector.cli.main import main
    from inspector.regress.sweep.engines import dask_cluster, ray_cluster

    dask_cluster.CONNECT, ray_cluster.JOIN = 1.0, 4.0
    out, *command = words
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 1)
    return main(command)


@pytest.mark.parametrize(("engine", "scheme"), [("ray", ""), ("dask", "tcp://")])
@pytest.mark.parametrize("what", ["nothing", "another service"])
def test_a_wrong_address_is_one_line_within_seconds(
    engine: str, scheme: str, what: str, nursery_of_all: Nursery, tmp_path: Path
) -> None:
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[engine])
    out = tmp_path / "out"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if what != "nothing":
            listener.listen()
        address = f"{scheme}127.0.0.1:{listener.getsockname()[1]}"
        words = [str(out), "table", "resnet18", "--engine", engine, "--address", address]
        place = f"{__package__}.test_engines:impatient"
        with nursery_of_all.child(place, words, tmp_path, search=[ROOT]) as done:
            assert done.wait(90)
            assert (done.code, done.answer(), out.read_text()) == (0, 2, "")
    first, second = done.printed().splitlines()
    assert first.startswith(f"error: no cluster answers at {address}: ")
    assert second.startswith("hint: ")


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("dask", "distributed")])
def test_a_package_that_is_missing_here_is_named(
    engine: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InspectError, match="is not installed") as caught:
        table.table("resnet18", engine=engine, address="127.0.0.1:9")
    assert f"torch-inspector[{engine}]" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"engine": "spark", "address": "a:1"}, "no engine is called 'spark'"),
        ({"engine": "ray"}, "needs the address of a cluster"),
        ({"address": "a:1"}, "`address=` is that of a cluster"),
        ({"engine": "dask", "address": "tcp://a:1", "jobs": 2}, "`jobs=` are processes of this machine"),
    ],
)
def test_options_that_do_not_fit_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InspectError, match=message) as caught:
        table.table("resnet18", **more)
    assert caught.value.hint


class Fake:
    """A cluster whose workers have `installed`; it has `left` workers, and its rows never end."""

    def __init__(self, installed: list[dict[str, str | None]], left: int = 0, error: Any = None) -> None:
        self.installed, self.left, self.error = installed, left, error

    def everywhere(self, function: Any) -> list[Any]:
        return self.installed

    def submit(self, tasks: Any) -> None: ...

    def done(self, seconds: float) -> list[Any]:
        if self.error:
            raise self.error
        return []

    def workers(self) -> int:
        return self.left


def here() -> dict[str, str | None]:
    return engines._versions()()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"torch": "1.0"}, "has torch 1.0, and this process has"),
        ({"inspector": None}, "has no inspector, and this process has"),
    ],
)
def test_a_worker_with_other_versions_is_refused(other: dict[str, Any], message: str) -> None:
    engines._same(here(), here())
    with pytest.raises(InspectError, match=message) as caught:
        engines._same({**here(), **other}, here())
    assert "on all workers" in str(caught.value.hint)


def test_versions_are_asked_where_inspector_is_not(tmp_path: Path) -> None:
    cloudpickle = pytest.importorskip("cloudpickle", reason="comes with dask")
    file = tmp_path / "function"
    file.write_bytes(cloudpickle.dumps(engines._versions()))
    place = str(Path(cloudpickle.__file__).parents[1])
    program = (
        f"import sys; sys.path.append({place!r}); sys.modules['inspector'] = None\n"
        f"import pickle; print(pickle.load(open({str(file)!r}, 'rb'))()['inspector'])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "None\n"


def test_a_cluster_without_workers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "EMPTY", 0.0)
    with pytest.raises(InspectError, match="no worker for 0 s") as caught:
        list(engines._answers(Fake([]), 1, "dask cluster at a:1"))
    assert "resume=" in str(caught.value.hint)


def test_a_cluster_that_is_lost_is_one_line() -> None:
    cluster = Fake([], left=1, error=ConnectionError("closed\nby peer"))
    with pytest.raises(InspectError, match="cannot count: ConnectionError: closed by peer") as caught:
        list(engines._answers(cluster, 1, "ray cluster at a:1"))
    assert "resume=" in str(caught.value.hint)
