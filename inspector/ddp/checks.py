"""Whether the training did what data-parallel training must do. Pure functions of what the ranks saw.

One function a check; each has a planted fault in tests/faults/ddp.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspector.report import Finding

FACTOR, FLOOR = 10.0, 1e-4
"""Gradients under DDP may be so many times as far from float64 as those of one process in the same
precision, and this far in any case (relative L2): a missing average or a wrong divisor is off by 0.5 or more."""
USELESS = 0.3
"""Where rounding alone moves the gradients this far, nothing can be said."""


@dataclass
class Evidence:
    """What each rank saw, rank 0 first (see `inspector.ddp.evidence` and `worker`), and the settings."""

    ranks: list[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> list[dict[str, Any]]:
        """One part of every rank's evidence; empty unless all ranks have it."""
        found = [rank.get(name) for rank in self.ranks]
        return [entry for entry in found if entry is not None] if all(e is not None for e in found) else []

    @property
    def names(self) -> list[str]:
        return self.ranks[0]["before"]["names"]


def examine(evidence: Evidence) -> list[Finding]:
    """Every check whose evidence is there."""
    found: list[Finding] = []
    if evidence.part("before"):
        for check in CHECKS:
            found += check(evidence)
    return found


def uneven(e: Evidence) -> Iterator[Finding]:
    """Every rank must take as many steps as the others: the one with more waits for ever."""
    counts = [rank["steps_per_epoch"] for rank in e.part("before")]
    if len(set(counts)) > 1:
        yield Finding("uneven", "fail", "", f"batches in an epoch differ between ranks: {counts}; without Join the longest waits for ever", {"batches": counts})  # fmt: skip
    elif not counts[0]:
        yield Finding("uneven", "fail", "", "an epoch holds no whole batch", {"batches": counts})
    else:
        yield Finding("uneven", "pass", "", f"every rank has {counts[0]} batches in an epoch")


def initial(e: Evidence) -> Iterator[Finding]:
    """All ranks must build the same weights; DDP's broadcast at the wrap would hide that they do not."""
    parts = e.part("before")
    wrong = _differing([p["initial"] for p in parts], e.names)
    if wrong:
        yield Finding("initial_weights", "fail", wrong[0], f"{_count(wrong, 'parameter')} built differently on the ranks before the wrap: seed them alike", {"names": wrong})  # fmt: skip
    wrong = _differing([p["wrapped"] for p in parts], e.names)
    if wrong:
        yield Finding("initial_weights", "fail", wrong[0], f"{_count(wrong, 'parameter')} differ between the ranks after the wrap", {"names": wrong})  # fmt: skip
    wrong = _differing([p["buffers"] for p in parts], parts[0]["buffer_names"])
    if wrong:
        yield Finding("initial_weights", "fail", wrong[0], f"{_count(wrong, 'buffer')} differ between the ranks after the wrap", {"names": wrong})  # fmt: skip
    if not (_differing([p["initial"] for p in parts], e.names) or wrong):
        yield Finding("initial_weights", "pass", "", f"{len(e.names)} parameters and {len(parts[0]['buffers'])} buffers are the same on {len(parts)} ranks, before and after the wrap")  # fmt: skip


def unused(e: Evidence) -> Iterator[Finding]:
    """A parameter without gradient makes DDP's reduction wait, or raise at the next step."""
    for rank, part in enumerate(e.part("unused")):
        names = part["names"]
        if names:
            allowed = e.settings.get("find_unused")
            status = "warn" if allowed else "fail"
            hint = "" if allowed else "; freeze them, or --set DDP.FIND_UNUSED True"
            yield Finding("unused_parameters", status, names[0], f"no gradient reaches {_count(names, 'parameter')} on rank {rank}{hint}", {"names": names})  # fmt: skip
            return
    if e.part("unused"):
        yield Finding("unused_parameters", "pass", "", "a gradient reaches every trainable parameter")


def optimizer(e: Evidence) -> Iterator[Finding]:
    """The optimizer holds each trainable parameter once, no frozen one, biases by their own rule."""
    part, settings = e.part("before")[0], e.settings
    frozen = set(part["frozen"])
    held = Counter(name for group in part["groups"] for name in group["names"])
    wrong = False
    for what, names in (
        ("frozen, and the optimizer holds it", sorted(frozen & set(held))),
        ("trainable, and the optimizer does not hold it", [n for n in e.names if n not in frozen and n not in held]),
        ("held by the optimizer more than once", [n for n, count in held.items() if count > 1 and n in e.names]),
        ("held by the optimizer, and of another model", [n for n in held if n not in e.names]),
    ):  # fmt: skip
        if names:
            wrong = True
            yield Finding("optimizer", "fail", names[0], f"is {what} ({_count(names, 'parameter')}): build it after freezing, from the model that trains", {"names": names})  # fmt: skip
    rates = [group["lr"] for group in part["groups"]]
    if not all(rate > 0 and math.isfinite(rate) for rate in rates):
        wrong = True
        yield Finding("optimizer", "fail", "", f"learning rates {rates} train nothing", {"lr": rates})
    if "base_lr" in settings:
        base, decay = settings["base_lr"], settings["weight_decay"]
        bias_rate, bias_decay = base * settings["bias_lr_factor"], settings["weight_decay_bias"]
        for group in part["groups"]:
            for name in group["names"]:
                bias = name.rpartition(".")[2] == "bias"
                want = (bias_rate, bias_decay) if bias else (base, decay)
                if name in e.names and not _near((group["lr"], group["weight_decay"]), want):
                    wrong = True
                    yield Finding("optimizer", "fail", name, f"has rate {group['lr']:g} and decay {group['weight_decay']:g}, not {want[0]:g} and {want[1]:g}")  # fmt: skip
                    break
    if not wrong:
        yield Finding("optimizer", "pass", "", f"{len(held)} trainable parameters once each; rates {', '.join(f'{r:g}' for r in rates)}")  # fmt: skip


def gradients(e: Evidence) -> Iterator[Finding]:
    """The first step's gradients are those of the right reference, in float64."""
    part = e.ranks[0].get("gradients")
    if not part:
        return
    if "skipped" in part:
        yield Finding("gradients", "skip", "", f"not compared: {part['skipped']}")
        return
    distance, alone = part["distance"], part["alone"]
    what = "the big batch" if part["synchronised_norms"] else "each shard run by itself, averaged"
    if distance is None or alone is None:
        yield Finding("gradients", "fail", "", "a gradient is missing or not finite under DDP", part)
        return
    limit = max(FACTOR * alone, FLOOR)
    said = f"{distance:.2g} from float64 ({what}); one process in the same precision {alone:.2g}"
    if limit > USELESS:
        yield Finding("gradients", "skip", "", f"rounding alone moves them too far to compare: {said}", part)
    elif distance > limit:
        name = part["worst"][0][0] if part["worst"] else ""
        yield Finding("gradients", "fail", name, f"the first step's gradients are {said}", part)
    else:
        yield Finding("gradients", "pass", "", f"the first step's gradients are {said}", part)
    count = part["micro_batches"]
    if part["reduced"] != part["expected"]:
        times = part["reduced"] / part["expected"] if part["expected"] else math.inf
        yield Finding("accumulation", "fail", "", f"{count} accumulated batches send their gradients {times:.3g} times, not once: the forward, too, must be inside no_sync()", part)  # fmt: skip
    elif part["accumulated"] is None or part["accumulated"] > limit:
        yield Finding("accumulation", "fail", "", f"{count} accumulated batches do not give the gradients of one big step ({part['accumulated']})", part)  # fmt: skip
    else:
        yield Finding("accumulation", "pass", "", f"{count} accumulated batches equal one step over all of them ({part['accumulated']:.2g}), and are sent once")  # fmt: skip


def sampler(e: Evidence) -> Iterator[Finding]:
    """The ranks' shards cover every sample once, but for the padding to equal lengths."""
    parts = e.part("after")
    if not parts:
        return
    total = parts[0]["samples"]
    for epoch in range(len(parts[0]["orders"])):
        orders = [part["orders"][epoch] for part in parts]
        seen = Counter(index for order in orders for index in order)
        missing, padding = total - len(seen), sum(map(len, orders)) - total
        repeated = sum(count - 1 for count in seen.values())
        if missing > 0 or repeated > max(padding, 0):
            evidence = {"missing": missing, "repeated": repeated, "samples": total}
            yield Finding("sampler", "fail", "", f"in epoch {epoch} the ranks leave out {missing} of {total} samples and repeat {repeated}: give the sampler rank and world size", evidence)  # fmt: skip
            return
    padded = f", {padding} of them repeated to equal lengths" if padding else ""
    yield Finding("sampler", "pass", "", f"the shards of {len(parts)} ranks cover all {total} samples{padded}", {"padding": padding})  # fmt: skip
    if all(part["orders"][0] == part["orders"][1] for part in parts) and len(parts[0]["orders"][0]) > 2:
        yield Finding(
            "set_epoch", "fail", "", "every epoch has the same order: call sampler.set_epoch(epoch)"
        )
    else:
        yield Finding("set_epoch", "pass", "", "the order changes from epoch to epoch")


def augmentation(e: Evidence) -> Iterator[Finding]:
    """Random draws differ between ranks, or the effective variety is that of one."""
    parts = e.part("before")
    if len(parts) < 2:
        return
    if len({tuple(part["draws"]) for part in parts}) < len(parts):
        yield Finding("random_draws", "fail", "", "two ranks have the same random state: dropout drops alike on them")  # fmt: skip
    elif all(part["augments"] for part in parts) and len({tuple(p["augmented"]) for p in parts}) < len(parts):
        yield Finding("random_draws", "fail", "", "two ranks augment the same samples alike: seed by rank")
    else:
        yield Finding("random_draws", "pass", "", "random draws and augmentation differ between the ranks")


def mode(e: Evidence) -> Iterator[Finding]:
    """The model is in train mode while it trains, but for what rests on purpose."""
    for rank, part in enumerate(e.part("after")):
        wrong = [
            path
            for path in part["in_eval"] or []
            if (path if path != "(model)" else "") not in part["resting"]
        ]
        if wrong:
            yield Finding("mode", "fail", wrong[0], f"is in eval mode while it trains on rank {rank} ({_count(wrong, 'module')})", {"names": wrong})  # fmt: skip
            return


def parameters(e: Evidence) -> Iterator[Finding]:
    """After every step all ranks have the same parameters, bit by bit."""
    parts = e.part("after")
    if not parts or not parts[0]["digests"]:
        return
    for step, rows in enumerate(zip(*(part["digests"] for part in parts)), 1):
        wrong = _differing(list(rows), e.names)
        if wrong:
            late = [name for part in parts for name in part["trained_late"] if name in wrong]
            why = "; requires_grad was set after the wrap" if late else ""
            yield Finding("parameters", "fail", wrong[0], f"{_count(wrong, 'parameter')} differ between the ranks after step {step}{why}", {"step": step, "names": wrong})  # fmt: skip
            return
    steps = len(parts[0]["digests"])
    yield Finding("parameters", "pass", "", f"all parameters are the same on {len(parts)} ranks after each of {steps} steps")  # fmt: skip


def frozen(e: Evidence) -> Iterator[Finding]:
    """What the configuration froze has not moved."""
    parts = e.part("after")
    names = e.part("before")[0]["frozen"]
    if not parts or not names or not parts[0]["digests"]:
        return
    first, last = e.part("before")[0]["wrapped"], parts[0]["digests"][-1]
    moved = [name for name, a, b in zip(e.names, first, last) if name in names and a != b]
    if moved:
        yield Finding(
            "frozen", "fail", moved[0], f"{_count(moved, 'frozen parameter')} moved", {"names": moved}
        )
    else:
        yield Finding("frozen", "pass", "", f"{len(names)} frozen parameters did not move")


def buffers(e: Evidence) -> Iterator[Finding]:
    """DDP keeps the buffers in step that it saw at the wrap; one that is assigned anew, it does not see."""
    parts = e.part("after")
    if not parts:
        return
    reassigned = sorted({name for part in parts for name in part["reassigned"]})
    wrong = _differing([part["final_buffers"] for part in parts], parts[0]["final_buffer_names"])
    if wrong:
        why = " (assigned anew, so that DDP does not see it: change it in place)" if set(wrong) & set(reassigned) else ""  # fmt: skip
        yield Finding("buffers", "fail", wrong[0], f"{_count(wrong, 'buffer')} differ between the ranks{why}", {"names": wrong, "reassigned": reassigned})  # fmt: skip
    elif reassigned and len(parts) > 1:
        yield Finding("buffers", "warn", reassigned[0], f"{_count(reassigned, 'buffer')} assigned anew while training: DDP no longer keeps them in step", {"names": reassigned})  # fmt: skip
    elif parts[0]["final_buffers"]:
        yield Finding("buffers", "pass", "", f"{len(parts[0]['final_buffers'])} buffers are the same on {len(parts)} ranks after a forward")  # fmt: skip


def scheduler(e: Evidence) -> Iterator[Finding]:
    """Validation loss, scheduler and learning rates are alike on every rank."""
    parts = e.part("after")
    if not parts or not parts[0]["validations"]:
        return
    for number, entries in enumerate(zip(*(part["validations"] for part in parts))):
        if any(entry != entries[0] for entry in entries):
            keys = [key for key in entries[0] if len({entry[key] for entry in entries}) > 1]
            values = {key: [entry[key] for entry in entries] for key in keys}
            yield Finding("scheduler", "fail", keys[0], f"differs between the ranks at step {entries[0]['step']}: {values[keys[0]]}; reduce the metric over the ranks before scheduler.step()", values)  # fmt: skip
            return
    if any(part["rates"] != parts[0]["rates"] for part in parts):
        yield Finding("scheduler", "fail", "lr", "learning rates differ between the ranks")
        return
    yield Finding("scheduler", "pass", "", f"validation loss, ReduceLROnPlateau and rates are the same on {len(parts)} ranks at {len(parts[0]['validations'])} validations")  # fmt: skip


def loss(e: Evidence) -> Iterator[Finding]:
    """The loss falls when the same batch is trained on again and again."""
    losses = e.ranks[0].get("fixed_batch")
    if not losses:
        return
    said = f"from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps on one batch"
    if not all(math.isfinite(value) for value in losses):
        yield Finding("loss_falls", "fail", "", f"the loss is not finite: {losses}", {"losses": losses})
    elif not min(losses[-3:]) < losses[0]:
        yield Finding("loss_falls", "fail", "", f"the loss does not fall: {said}", {"losses": losses})
    else:
        yield Finding("loss_falls", "pass", "", f"the loss falls {said}", {"losses": losses})


def checkpoint(e: Evidence) -> Iterator[Finding]:
    """A save that fails half-way leaves the previous checkpoint."""
    said = e.ranks[0].get("interrupted_save")
    if said is None:
        return
    if said:
        yield Finding("checkpoint", "fail", "", f"{said}: write a temporary file, then os.replace")
    else:
        yield Finding(
            "checkpoint", "pass", "", "a save that fails half-way leaves the previous checkpoint whole"
        )


def resume(e: Evidence) -> Iterator[Finding]:
    """Going on from a checkpoint gives, bit by bit, what not stopping gives."""
    wanted, found = e.part("fingerprint"), e.part("resumed")
    if wanted and found:
        start, where = found[0]["from"], found[0]["where"]
        wrong = [rank for rank, (a, b) in enumerate(zip(wanted, found)) if a["sums"] != b["sums"]]
        if wrong:
            yield Finding("resume", "fail", "", f"training resumed at step {start} ({where}) ends elsewhere than training that never stopped, on rank {wrong[0]}", {"ranks": wrong})  # fmt: skip
        else:
            yield Finding("resume", "pass", "", f"training resumed at step {start} ({where}) ends bit by bit where training that never stopped ends")  # fmt: skip
    killed = e.ranks[0].get("killed")
    if killed is not None:
        status = "pass" if killed["expected"] == killed["step"] else "fail"
        yield Finding("killed", status, f"rank {killed['rank']}", f"killed by SIGKILL after step {killed['at']}, the workers were started again and went on at step {killed['step']}, where the checkpoint is", killed)  # fmt: skip


CHECKS: Sequence[Callable[[Evidence], Iterator[Finding]]] = (
    uneven, initial, unused, optimizer, gradients, sampler, augmentation, mode, parameters, frozen,
    buffers, scheduler, loss, checkpoint, resume,
)  # fmt: skip


def _differing(rows: list[list[int]], names: list[str]) -> list[str]:
    """The names whose numbers are not the same in all rows."""
    if any(len(row) != len(rows[0]) for row in rows):
        return ["(their number)"]
    return [name for name, *values in zip(names, *rows) if len(set(values)) > 1]


def _near(found: Sequence[float], wanted: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15) for a, b in zip(found, wanted))


def _count(names: Sequence[str], what: str) -> str:
    return f"1 {what}" if len(names) == 1 else f"{len(names)} {what}s"
