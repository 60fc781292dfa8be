"""Shared fixtures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inspector.cli.main import main
from inspector.core.forking import Nursery, nursery

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: exit code, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders for one test each. `mktemp` would look through those of all tests before for a free number."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has an empty cache of traces."""
    folder = next(caches)
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture(scope="session", autouse=True)
def nursery_of_all() -> Iterator[Nursery]:
    """All that tests start in processes of their own is forked from one, which has imported torch."""
    rooms = (
        "core.config",
        "counters.isolate",
        "distributed.rank",
        "distributed.fsdp",
        "freezing.ddp_worker",
        "scaling.child",
    )
    used = ("torchvision", "torch._dynamo", "PIL.Image", *(f"inspector.{room}" for room in rooms))
    with nursery(*used) as made:
        yield made


@pytest.fixture
def net_file(tmp_path: Path) -> Path:
    """The manual's own example of a user's model."""
    file = tmp_path / "your_net.py"
    file.write_text(
        "import torch\n"
        "from torch import nn\n"
        "\n"
        "\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, width=16):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, width, 3, padding=1)\n"
        "        self.norm = nn.BatchNorm2d(width)\n"
        "        self.head = nn.Linear(width, 10)\n"
        "\n"
        "    def forward(self, x):\n"
        "        x = torch.relu(self.norm(self.conv(x)))\n"
        "        return self.head(x.mean(dim=(2, 3)))\n"
        "\n"
        "\n"
        "def build(width=16):\n"
        "    return Net(width)\n"
    )
    return file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu skip with a reason where there is none."""
    import torch  # not above: the process that hands tests out to others needs none

    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device on this machine")
    for item in items:
        if item.get_closest_marker("gpu"):  # a folder above may be called so, too
            item.add_marker(skip)
