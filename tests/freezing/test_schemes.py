"""One frozen part, counted by four projects."""

from __future__ import annotations

import pytest

from inspector.core.errors import InspectError
from inspector.freezing.schemes import SCHEMES, equivalents, frozen_stages

# Stem and layer1 of a ResNet (5 stages), as each project writes it: RESEARCH of their sources.
STEM_AND_LAYER1 = {"maskrcnn": 2, "detectron2": 2, "mmdet": 1, "torchvision": 3}
NOTHING = {"maskrcnn": 0, "detectron2": 0, "mmdet": -1, "torchvision": 5}
EVERYTHING = {"maskrcnn": 5, "detectron2": 5, "mmdet": 4, "torchvision": 0}


@pytest.mark.parametrize(("frozen", "written"), [(2, STEM_AND_LAYER1), (0, NOTHING), (5, EVERYTHING)])
def test_each_project_writes_the_same_stages_in_its_own_way(frozen: int, written: dict[str, int]) -> None:
    for name, n in written.items():
        assert frozen_stages(n, name, 5) == frozen
    assert {row["scheme"]: row["n"] for row in equivalents(frozen, 5)} == written


@pytest.mark.parametrize(("at", "frozen"), [(-1, 0), (0, 1), (1, 1), (2, 2), (5, 5)])
def test_detectron2_freezes_the_patch_embedding_of_its_swin_at_zero(at: int, frozen: int) -> None:
    assert frozen_stages(at, "detectron2", 5, swin=True) == frozen


def test_what_is_written_for_a_swin_is_read_back() -> None:
    for frozen in range(6):
        for row in equivalents(frozen, 5, swin=True):
            assert frozen_stages(int(str(row["n"])), str(row["scheme"]), 5, swin=True) == frozen


@pytest.mark.parametrize(
    ("name", "at", "range_"),
    [
        ("maskrcnn", 6, "from 0 to 5"),
        ("maskrcnn", -1, "from 0 to 5"),
        ("detectron2", 6, "from 0 to 5"),
        ("mmdet", 5, "from -1 to 4"),
        ("torchvision", 6, "from 0 to 5"),
    ],
)
def test_an_n_outside_names_the_range(name: str, at: int, range_: str) -> None:
    with pytest.raises(InspectError, match=range_):
        frozen_stages(at, name, 5)


def test_an_unknown_scheme_names_the_known() -> None:
    with pytest.raises(InspectError) as caught:
        frozen_stages(1, "detectron", 5)
    assert "detectron2" in str(caught.value.hint)
    assert set(SCHEMES) == {"maskrcnn", "detectron2", "mmdet", "torchvision"}
