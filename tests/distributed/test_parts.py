"""The parts of the training loop by themselves."""

from __future__ import annotations

import subprocess
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn

from inspector.core.config import defaults, dump, load, parse
from inspector.core.errors import InspectError
from inspector.distributed import checkpoint, solver
from inspector.distributed.data import Digits, Synthetic, transform
from inspector.distributed.data import load as load_data
from inspector.distributed.digest import sums
from inspector.distributed.job import Place, adopt_slurm
from inspector.models.inputs import InputSpec
from inspector.models.loss import loss_of
from tests.distributed.nets import Small

IMAGE = InputSpec((4, 3, 16, 16))


def test_biases_get_twice_the_rate_and_no_decay() -> None:
    node = defaults().SOLVER
    optimizer = solver.optimizer(Small(), node)
    weights, biases = optimizer.param_groups
    assert biases["lr"] == 2 * weights["lr"] == 2 * node.BASE_LR
    assert (weights["weight_decay"], biases["weight_decay"]) == (1e-4, 0.0)
    assert [len(group["params"]) for group in (weights, biases)] == [3, 3]


def test_the_plateau_cuts_the_rate_after_its_patience() -> None:
    node = defaults().SOLVER
    optimizer = solver.optimizer(Small(), node)
    scheduler = solver.scheduler(optimizer, node)
    for _ in range(node.SCHEDULER.PATIENCE + 2):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(node.BASE_LR * node.SCHEDULER.FACTOR)


def test_autocast_and_its_scaler() -> None:
    node = SimpleNamespace(ENABLED=True, DTYPE="auto")
    assert solver.amp_dtype(node, "cpu") is torch.bfloat16
    assert solver.amp_dtype(node, "cuda:0") is torch.float16
    assert solver.scaler(torch.float16, "cpu").is_enabled()
    assert not solver.scaler(torch.bfloat16, "cpu").is_enabled()
    with pytest.raises(InspectError):
        solver.amp_dtype(SimpleNamespace(ENABLED=True, DTYPE="float8"), "cpu")


def test_digits_are_real_and_whole() -> None:
    digits = Digits()
    image, label = digits[0]
    assert len(digits) == 1797  # the size that scikit-learn documents
    assert (image.size, image.mode, label) == ((8, 8), "L", 0)
    tensor = transform(3, 16, 16, augment=False)(image)
    assert tensor.shape == (3, 16, 16)


def test_shards_are_disjoint_and_augmentation_depends_on_epoch_and_rank() -> None:
    node = defaults().DATA
    ranks = [load_data(node, IMAGE, 2, 0, rank, 2) for rank in (0, 1)]
    orders = [set(data.sampler) for data in ranks]
    assert not orders[0] & orders[1]
    one, two = (data.dataset[3][0] for data in ranks)
    assert not torch.equal(one, two)
    assert torch.equal(one, ranks[0].dataset[3][0])
    ranks[0].dataset.epoch = 1
    assert not torch.equal(one, ranks[0].dataset[3][0])
    held = ranks[0].validation.dataset[3][0]
    assert torch.equal(held, ranks[1].validation.dataset[3][0])


def test_a_sample_leaves_the_random_state_alone() -> None:
    data = load_data(defaults().DATA, IMAGE, 2, 0, 0, 1)
    state = torch.get_rng_state()
    data.dataset[0]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sample_does_not_seed_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the masks of dropout would follow from the last sample, on all ranks alike in a validation."""
    data = load_data(defaults().DATA, IMAGE, 2, 0, 0, 2)
    expected = data.dataset[3][0]
    for device in (torch.cuda, torch.xpu, torch.mtia):
        monkeypatch.setattr(device, "manual_seed_all", lambda seed: pytest.fail(f"seeded with {seed}"), False)
    assert torch.equal(data.dataset[3][0], expected)


def test_loader_workers_give_what_the_process_itself_gives() -> None:
    def epochs(workers: int) -> list[torch.Tensor]:
        node = defaults().DATA
        node.WORKERS = workers
        data = load_data(node, IMAGE, 2, 0, 1, 2)
        found = []
        for epoch in (0, 1):
            data.sampler.set_epoch(epoch)
            data.dataset.epoch = epoch
            found += [samples for (samples, _), _ in zip(data.train, range(3))]
        return found

    alone, others = epochs(0), epochs(2)
    assert all(torch.equal(one, other) for one, other in zip(alone, others))
    assert not torch.equal(alone[0], alone[3])


def test_loader_workers_are_forked_from_a_process_that_has_imported_what_they_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(
        ForkServerContext, "set_forkserver_preload", lambda _, modules: asked.append(list(modules))
    )
    node = defaults().DATA
    node.WORKERS = 1
    for node.SOURCE in ("digits", "synthetic"):
        load_data(node, IMAGE, 2, 0, 0, 1)
    # torchvision's transforms and the images of PIL; tensors of random numbers need neither.
    assert asked == [
        ["inspector.distributed.data", "torchvision", "PIL.Image"],
        ["inspector.distributed.data"],
    ]


def test_loader_workers_end_when_their_process_is_killed() -> None:
    program = (
        "import sys; from tests.distributed.test_parts import IMAGE, defaults, load_data\n"
        "if __name__ == '__main__':\n"
        "    node = defaults().DATA; node.WORKERS = 1; data = load_data(node, IMAGE, 2, 0, 0, 1)\n"
        "    batches = iter(data.train); next(batches); print(batches._workers[0].pid, flush=True)\n"
        "    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert psutil.pid_exists(worker)
        process.kill()
    try:
        psutil.Process(worker).wait(20)
    except psutil.NoSuchProcess:
        pass


def test_an_epoch_goes_on_where_it_stopped() -> None:
    data = load_data(defaults().DATA, IMAGE, 2, 0, 0, 2)
    whole = list(data.train.sampler)
    data.train.sampler.start = 16
    assert list(data.train.sampler) == whole[16:]
    assert list(data.train.sampler) == whole


def test_synthetic_tokens_stay_in_range() -> None:
    tokens, label = Synthetic(InputSpec((4, 7), torch.int64), 50, 20, 0)[13]
    assert tokens.shape == (7,)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < 50
    assert label == 3


def test_folders_of_images(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", (20, 20), (number * 20, 0, 0)).save(tmp_path / name / f"{number}.png")
    node = defaults().DATA
    node.SOURCE, node.BATCH = str(tmp_path), 4
    data = load_data(node, IMAGE, 2, 0, 0, 1)
    samples, labels = next(iter(data.train))
    assert samples.shape == (4, 3, 16, 16)
    assert set(labels.tolist()) <= {0, 1}
    (tmp_path / "empty").mkdir()
    node.SOURCE = str(tmp_path / "empty")
    with pytest.raises(InspectError, match="cannot read images"):
        load_data(node, IMAGE, 2, 0, 0, 1)


def test_checkpoints_are_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    states = checkpoint.random_states()
    checkpoint.save({"step": 3, "random": [states]}, file)
    drawn = torch.rand(3)
    checkpoint.restore_random_states(checkpoint.load(file)["random"][0])
    assert torch.equal(torch.rand(3), drawn)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InspectError, match="cannot read the checkpoint"):
        checkpoint.load(file)
    with pytest.raises(InspectError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "other.pt")
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_one_bit_changes_a_digest() -> None:
    value = torch.zeros(5)
    before = sums([value, value.bfloat16(), value.bool()]).tolist()
    value.view(torch.int32)[3] = 1
    assert sums([value]).tolist() == [1]
    assert before == [0, 0, 0]


def test_places_from_torchrun_and_slurm() -> None:
    place = Place.of({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, "cuda")
    assert (place.rank, place.world, place.device) == (3, 4, "cuda:1")
    tasks = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "MASTER_ADDR": "node0"}
    adopt_slurm(tasks)
    assert (tasks["RANK"], tasks["WORLD_SIZE"], tasks["LOCAL_RANK"]) == ("1", "2", "0")
    with pytest.raises(InspectError):
        Place.of({"RANK": "a", "WORLD_SIZE": "2"}, "cpu")


def test_the_configuration_survives_its_file() -> None:
    node = load(None, {"SOLVER.BASE_LR": "1", "DDP.STALL": "+5", "FREEZE.AT": 2})
    assert (node.SOLVER.BASE_LR, node.DDP.STALL) == (1.0, 5.0)
    assert parse(dump(node)) == node


def test_the_loss_by_hand() -> None:
    """Cross-entropy of equal logits over 4 classes is log 4, whatever the label."""
    logits = torch.zeros(2, 4, requires_grad=True)
    labels = torch.tensor([1, 7])  # 7 is taken modulo 4
    assert loss_of(logits, labels).item() == pytest.approx(1.3862943611198906)
    own = torch.tensor(3.0, requires_grad=True)
    assert loss_of({"loss": own, "logits": logits}, labels).item() == 3.0
    with pytest.raises(RuntimeError):
        loss_of(nn.Identity()(torch.ones(2)), labels)
