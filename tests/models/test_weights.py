"""Values of checkpoints: what is saved is what is loaded, and what does not fit changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError
from inspector.models.weights import check_save, load_into, load_tensors, manifest_path, save_state

SUFFIXES = [".pth", ".pt", ".bin", ".ckpt", ".safetensors"]


class Odd(nn.Module):
    """What checkpoints trip over: ties, bf16, 0-dim and empty tensors, a buffer that is not saved."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, width)
        self.head = nn.Linear(width, 4, bias=False)
        self.head.weight = self.embed.weight
        self.brain = nn.Parameter(torch.randn(width, dtype=torch.bfloat16))
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.none = nn.Parameter(torch.empty(0, 2))
        self.turned = nn.Parameter(torch.randn(2, width).t())  # not contiguous
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("scratch", torch.randn(2), persistent=False)


def values(model: nn.Module) -> dict[str, bytes]:
    return {name: raw(tensor) for name, tensor in model.state_dict().items()}


def raw(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())


def refused(call: Callable[[], object]) -> InspectError:
    with pytest.raises(InspectError) as caught:
        call()
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_saved_values_load_byte_for_byte_into_another_model(tmp_path: Path, suffix: str) -> None:
    model, other = Odd(), Odd()
    assert values(model) != values(other)
    save_state(model, tmp_path / f"a{suffix}", {})
    load_into(other, tmp_path / f"a{suffix}")
    assert values(other) == values(model)
    assert other.head.weight is other.embed.weight


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_tensors_gives_dtypes_shapes_and_values(tmp_path: Path, suffix: str) -> None:
    model = Odd()
    save_state(model, tmp_path / f"a{suffix}", {})
    tensors = load_tensors(tmp_path / f"a{suffix}")
    assert {name: raw(tensor) for name, tensor in tensors.items()} == values(model)
    assert tensors["brain"].dtype is torch.bfloat16
    assert tensors["scale"].shape == ()
    assert tensors["none"].shape == (0, 2)
    assert tensors["norm.num_batches_tracked"].dtype is torch.int64
    assert "scratch" not in tensors


def test_a_saved_file_is_plain_torch(tmp_path: Path) -> None:
    model = Odd()
    save_state(model, tmp_path / "a.pth", {})
    other = Odd()
    other.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True))
    assert values(other) == values(model)


def test_a_tie_stays_one_storage_in_a_torch_file(tmp_path: Path) -> None:
    save_state(Odd(), tmp_path / "a.pth", {})
    tensors = load_tensors(tmp_path / "a.pth")
    assert tensors["head.weight"].data_ptr() == tensors["embed.weight"].data_ptr()


def test_the_manifest_says_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    assert save_state(nn.Linear(2, 2), file, {"seed": 3, "scheme": "xavier"}) == [
        file,
        tmp_path / "a.safetensors.json",
    ]
    assert json.loads(manifest_path(file).read_text()) == {
        "seed": 3,
        "scheme": "xavier",
        "file": "a.safetensors",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "format": "safetensors",
    }
    assert manifest_path(file).read_text().startswith('{\n "seed": 3,')


def test_saving_again_replaces_both_files(tmp_path: Path) -> None:
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = nn.Linear(2, 2)
        save_state(model, tmp_path / "a.pt", {"seed": seed})
    assert raw(load_tensors(tmp_path / "a.pt")["weight"]) == raw(model.weight)
    assert json.loads((tmp_path / "a.pt.json").read_text())["seed"] == 2
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "a.pt.json"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(nn.Linear(2, 2), tmp_path / f"a{suffix}", {})
    before = (tmp_path / f"a{suffix}").read_bytes()

    def full(*paths: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert (
        "No space left" in refused(lambda: save_state(nn.Linear(2, 2), tmp_path / f"a{suffix}", {})).message
    )
    assert (tmp_path / f"a{suffix}").read_bytes() == before
    assert len(os.listdir(tmp_path)) == 2


def test_a_manifest_that_json_cannot_hold_is_written_as_text(tmp_path: Path) -> None:
    save_state(nn.Linear(1, 1), tmp_path / "a.pt", {"path": tmp_path, "dtype": torch.float32})
    assert json.loads((tmp_path / "a.pt.json").read_text())["dtype"] == "torch.float32"


@pytest.mark.parametrize("name", ["a.onnx", "a", "a.json", "a.tar"])
def test_another_suffix_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    assert ".safetensors" in (refused(lambda: check_save(tmp_path / name)).hint or "")
    refused(lambda: save_state(nn.Linear(1, 1), tmp_path / name, {}))
    assert os.listdir(tmp_path) == []


def test_a_path_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "b.pt.json").mkdir()
    for path in ("missing/a.pt", "folder.pt", "b.pt"):
        refused(lambda path=path: check_save(tmp_path / path))
    check_save(tmp_path / "fine.PTH")


def test_a_model_on_meta_is_neither_saved_nor_loaded(tmp_path: Path) -> None:
    save_state(nn.Linear(2, 2), tmp_path / "a.pt", {})
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    refused(lambda: save_state(model, tmp_path / "b.pt", {}))
    refused(lambda: load_into(model, tmp_path / "a.pt"))
    refused(lambda: save_state(nn.LazyLinear(2), tmp_path / "b.pt", {}))


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return self.extra if hasattr(self, "extra") else {"calls": 3}

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


def test_extra_state_travels_in_a_torch_file_and_is_refused_by_safetensors(tmp_path: Path) -> None:
    model = Extra(2, 2)
    model.extra = {"calls": 4}
    save_state(model, tmp_path / "a.pt", {})
    other = Extra(2, 2)
    load_into(other, tmp_path / "a.pt")
    assert other.extra == {"calls": 4}
    assert "_extra_state" in refused(lambda: save_state(model, tmp_path / "a.safetensors", {})).message
    model.extra = Odd()  # would need code to load
    refused(lambda: save_state(model, tmp_path / "b.pt", {}))
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize("nest", ["state_dict", "model", "model_state_dict", "module"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_nests_and_wrappers_are_seen_through(tmp_path: Path, nest: str, prefix: str) -> None:
    model, other = Odd(), Odd()
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({nest: state, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "a.pth")
    load_into(other, tmp_path / "a.pth")
    assert values(other) == values(model)


def test_a_real_data_parallel_file_loads_and_a_wrapped_model_takes_a_plain_file(tmp_path: Path) -> None:
    model, other = Odd(), Odd()
    save_state(nn.DataParallel(model), tmp_path / "a.pth", {})
    load_into(other, tmp_path / "a.pth")
    assert values(other) == values(model)
    save_state(model, tmp_path / "b.pth", {})
    wrapped = Odd()
    load_into(nn.DataParallel(wrapped), tmp_path / "b.pth")
    assert values(wrapped) == values(model)


def test_a_submodule_that_is_called_module_keeps_its_name(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.ModuleDict({"module": nn.Linear(2, 2), "model": nn.Linear(2, 2)})

    model, other = make(), make()
    save_state(model, tmp_path / "a.pt", {})
    load_into(other, tmp_path / "a.pt")
    assert values(other) == values(model)


def test_names_that_only_a_mark_tells_apart_are_not_merged(tmp_path: Path) -> None:
    torch.save(OrderedDict(weight=torch.zeros(1), **{"module.weight": torch.ones(1)}), tmp_path / "a.pt")
    model = nn.ParameterDict({"weight": nn.Parameter(torch.randn(1))})
    before = values(model)
    assert "1 unexpected (module.weight)" in refused(lambda: load_into(model, tmp_path / "a.pt")).message
    assert values(model) == before


def test_every_key_that_does_not_fit_is_counted_and_the_model_stays(tmp_path: Path) -> None:
    model = Odd()
    before = values(model)
    state = dict(model.state_dict())
    state |= {f"more{i}": torch.zeros(1) for i in range(5)}
    del state["scale"], state["brain"]
    state["norm.weight"] = torch.zeros(7)
    torch.save(state, tmp_path / "a.pth")
    message = refused(lambda: load_into(model, tmp_path / "a.pth")).message
    assert "2 missing (brain, scale)" in message
    assert "5 unexpected (more0, more1, more2, ...)" in message
    assert "1 wrongly shaped (norm.weight [7] instead of [3])" in message
    assert values(model) == before


def test_a_scalar_is_not_a_vector_of_one(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1, 1), "bias": torch.tensor(1.0)}, tmp_path / "a.pth")
    assert "bias [] instead of [1]" in refused(lambda: load_into(nn.Linear(1, 1), tmp_path / "a.pth")).message


def test_loading_keeps_the_dtype_of_the_model_and_does_not_judge_values(tmp_path: Path) -> None:
    torch.save({"weight": torch.tensor([[float("nan")]]), "bias": torch.tensor([1.5])}, tmp_path / "a.pth")
    model = nn.Linear(1, 1).to(torch.bfloat16)
    load_into(model, tmp_path / "a.pth")
    assert model.weight.dtype is torch.bfloat16
    assert model.weight.isnan().all()
    assert model.bias.item() == 1.5


def test_nested_tensors_have_dotted_paths(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2)}, "steps": [torch.tensor(1), 2]}, tmp_path / "a.ckpt")
    assert list(load_tensors(tmp_path / "a.ckpt")) == ["model.w", "steps.0"]


def test_the_format_before_torch_1_6_has_values_too(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(3)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert load_tensors(tmp_path / "a.pt")["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_refused_and_changes_nothing(tmp_path: Path, suffix: str) -> None:
    model = nn.Linear(8, 8)
    before = values(model)
    file = tmp_path / f"a{suffix}"
    save_state(model, file, {})
    whole = file.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        refused(lambda: load_tensors(file))
        refused(lambda: load_into(model, file))
    refused(lambda: load_tensors(tmp_path / "absent.pth"))
    assert values(model) == before


def test_a_file_without_tensors_or_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    assert "no tensors" in refused(lambda: load_tensors(tmp_path / "a.pt")).message
    torch.save(nn.Linear(1, 1), tmp_path / "b.pt")
    assert "run code" in refused(lambda: load_into(nn.Linear(1, 1), tmp_path / "b.pt")).message
