"""Whether the training did what data-parallel training must do. Pure functions of what the ranks saw.

One function a check; each has a planted fault in tests/faults/ddp.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspector.reporting.report import Finding

FACTOR, FLOOR = 10.0, 1e-4
"""Gradients under DDP may be so many times as far from float64 as those of one process in the same
precision, and this far in any case (relative L2): a missing average or a wrong divisor is off by 0.5."""
USELESS = 0.3
"""Where rounding alone moves the gradients this far, float64 says nothing about them."""
ROUGH = 0.1
"""So far may they then be from one process in the same precision, which rounds alike."""
DIVISORS = "compute the loss as the mean over the rank's samples, and let DDP average over the ranks"


@dataclass
class Evidence:
    """What each rank saw, rank 0 first (see `evidence` and `worker`), and the settings."""

    ranks: list[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> list[dict[str, Any]]:
        """One part of every rank's evidence; empty unless all ranks have it."""
        found = [rank.get(name) for rank in self.ranks]
        return [entry for entry in found if entry is not None] if None not in found else []

    @property
    def names(self) -> list[str]:
        names: list[str] = self.ranks[0]["before"]["names"]
        return names


def examine(evidence: Evidence) -> list[Finding]:
    """Every check whose evidence is there."""
    found: list[Finding] = []
    if evidence.part("before"):
        for check in CHECKS:
            found += check(evidence)
    return found


def fail(check: str, subject: str, message: str, **evidence: Any) -> Finding:
    return Finding(check, "fail", subject, message, evidence)


def good(check: str, message: str, **evidence: Any) -> Finding:
    return Finding(check, "pass", "", message, evidence)


def uneven(e: Evidence) -> Iterator[Finding]:
    """Every rank must take as many steps as the others: the one with more waits for ever."""
    counts = [rank["steps_per_epoch"] for rank in e.part("before")]
    if len(set(counts)) > 1:
        message = f"batches in an epoch differ between ranks: {counts}; without Join one waits for ever"
        yield fail("uneven", "", message, batches=counts)
    elif not counts[0]:
        yield fail("uneven", "", "an epoch holds no whole batch", batches=counts)
    else:
        yield good("uneven", f"every rank has {counts[0]} batches in an epoch")


def initial(e: Evidence) -> Iterator[Finding]:
    """All ranks must build the same weights; DDP's broadcast at the wrap would hide that they do not."""
    parts = e.part("before")
    failed = False
    for key, names, what in (
        ("initial", e.names, "built differently on the ranks before the wrap: seed them alike"),
        ("wrapped", e.names, "different on the ranks after the wrap"),
        ("buffers", parts[0]["buffer_names"], "different on the ranks after the wrap"),
    ):
        wrong = _differing([part[key] for part in parts], names)
        if wrong:
            failed = True
            yield fail("initial_weights", wrong[0], f"is {what} ({_count(wrong)} in all)", names=wrong)
    if not failed:
        buffers = len(parts[0]["buffers"])
        message = f"{len(e.names)} parameters and {buffers} buffers are the same on {len(parts)} ranks,"
        yield good("initial_weights", f"{message} before and after the wrap")


def unused(e: Evidence) -> Iterator[Finding]:
    """A parameter without gradient makes DDP's reduction wait, or raise at the next step."""
    parts = e.part("unused")
    for rank, part in enumerate(parts):
        names = part["names"]
        if names:
            allowed = bool(e.settings.get("find_unused"))
            hint = "" if allowed else ": freeze them, or --set DDP.FIND_UNUSED True"
            message = f"no gradient reaches it on rank {rank} ({_count(names)} in all){hint}"
            status = "warn" if allowed else "fail"
            yield Finding("unused_parameters", status, names[0], message, {"names": names})
            return
    if parts:
        yield good("unused_parameters", "a gradient reaches every trainable parameter")


def optimizer(e: Evidence) -> Iterator[Finding]:
    """The optimizer holds each trainable parameter once, no frozen one, biases by their own rule."""
    part = e.part("before")[0]
    frozen, known = set(part["frozen"]), set(e.names)
    held = Counter(name for group in part["groups"] for name in group["names"])
    failed = False
    for what, names in (
        ("frozen, and the optimizer holds it", sorted(frozen & set(held))),
        ("trainable, and the optimizer does not hold it", sorted(known - frozen - set(held))),
        ("held by the optimizer more than once", [n for n, times in held.items() if times > 1]),
        ("held by the optimizer, and is not of this model", [n for n in held if n not in known]),
    ):
        if names:
            failed = True
            message = f"is {what} ({_count(names)} in all): build it after freezing, from this model"
            yield fail("optimizer", names[0], message, names=names)
    rates = [group["lr"] for group in part["groups"]]
    if not all(rate > 0 and math.isfinite(rate) for rate in rates):
        failed = True
        yield fail("optimizer", "", f"learning rates {rates} train nothing", lr=rates)
    for message, name in _against_the_rule(part["groups"], known, e.settings):
        failed = True
        yield fail("optimizer", name, message)
    if not failed:
        said = ", ".join(f"{rate:g}" for rate in rates)
        yield good("optimizer", f"{len(held)} trainable parameters once each; learning rates {said}")


def _against_the_rule(
    groups: list[dict[str, Any]], known: set[str], settings: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """The first parameter of each group whose rate and decay are not what the settings say."""
    if "base_lr" not in settings:
        return
    base = (settings["base_lr"], settings["weight_decay"])
    bias = (settings["base_lr"] * settings["bias_lr_factor"], settings["weight_decay_bias"])
    for group in groups:
        found = (group["lr"], group["weight_decay"])
        for name in group["names"]:
            rate, decay = bias if name.rpartition(".")[2] == "bias" else base
            if name in known and not _near(found, (rate, decay)):
                yield f"has rate {found[0]:g} and decay {found[1]:g}, not {rate:g} and {decay:g}", name
                break


def gradients(e: Evidence) -> Iterator[Finding]:
    """The first step's gradients are those of the right reference, in float64; see evidence.gradients."""
    part = e.ranks[0].get("gradients")
    if not part:
        return
    if "skipped" in part:
        yield Finding("gradients", "skip", "", f"not compared: {part['skipped']}")
        return
    distance, alone, accumulated = part["distance"], part["alone"], part["accumulated"]
    if distance is None or alone is None:
        yield fail("gradients", "", "a gradient is missing or not finite under DDP", **part)
        return
    limit = max(FACTOR * alone, FLOOR)
    what = "the big batch" if part["synchronised_norms"] else "each shard by itself, averaged"
    said = f"the first step's gradients are {distance:.2g} from those in float64 ({what});"
    said += f" one process in the same precision: {alone:.2g}"
    if limit > USELESS:
        yield _same_precision(part, said)
    elif distance > limit:
        name = part["worst"][0][0] if part["worst"] else ""
        yield fail("gradients", name, f"{said}; {DIVISORS}", **part)
    else:
        yield good("gradients", said, **part)
    count, times = part["micro_batches"], part["reduced"] / max(part["expected"], 1)
    if part["reduced"] != part["expected"]:
        message = f"{count} accumulated batches send their gradients {times:.3g} times, not once:"
        yield fail("accumulation", "", f"{message} the forward, too, must be inside no_sync()", **part)
    elif accumulated is None or accumulated > _rough(limit, part):
        message = f"{count} accumulated batches do not give the gradients of one step over all of them"
        yield fail("accumulation", "", f"{message} ({accumulated})", **part)
    else:
        message = f"{count} accumulated batches equal one step over all of them, and are sent once"
        yield good("accumulation", f"{message} ({accumulated:.2g})")


def _rough(limit: float, part: dict[str, Any]) -> float:
    """How far sums in the same precision may differ; the big batch of SyncBatchNorm rounds otherwise."""
    return limit if limit <= USELESS or part["synchronised_norms"] else ROUGH


def _same_precision(part: dict[str, Any], said: str) -> Finding:
    """Gradients that rounding moves too far from float64, against one process that rounds alike."""
    why = f"rounding alone moves them too far for a comparison with float64 ({part['alone']:.2g})"
    if part["synchronised_norms"]:  # the big batch rounds otherwise
        return Finding("gradients", "skip", "", f"{why}: {said}", part)
    here = (
        f"the first step's gradients are {part['same']:.2g} from those of one process, each shard by itself"
    )
    if part["same"] > ROUGH:
        return fail("gradients", "", f"{here}, in the same precision; {DIVISORS}", **part)
    return good("gradients", f"{here}, averaged, in the same precision; {why}", **part)


def sampler(e: Evidence) -> Iterator[Finding]:
    """The ranks' shards cover every sample once, but for the padding to equal lengths."""
    parts = e.part("after")
    if not parts:
        return
    total, padding = parts[0]["samples"], 0
    for epoch in range(len(parts[0]["orders"])):
        orders = [part["orders"][epoch] for part in parts]
        seen = Counter(index for order in orders for index in order)
        missing, padding = total - len(seen), sum(map(len, orders)) - total
        repeated = sum(times - 1 for times in seen.values())
        if missing > 0 or repeated > min(max(padding, 0), len(parts) - 1):
            message = f"in epoch {epoch} ranks leave out {missing} of {total} samples and repeat {repeated}:"
            yield fail("sampler", "", f"{message} give the sampler rank and world size", missing=missing)
            break
    else:
        padded = f", {padding} of them twice to equal lengths" if padding else ""
        message = f"the shards of {len(parts)} ranks cover all {total} samples{padded}"
        yield good("sampler", message, padding=padding)
    if all(part["orders"][0] == part["orders"][1] for part in parts) and len(parts[0]["orders"][0]) > 2:
        yield fail("set_epoch", "", "every epoch has the same order: call sampler.set_epoch(epoch)")
    else:
        yield good("set_epoch", "the order changes from epoch to epoch")


def draws(e: Evidence) -> Iterator[Finding]:
    """Random draws differ between ranks, or the effective variety is that of one."""
    parts = e.part("before")
    if len(parts) < 2:
        return
    augmented = len({tuple(part["augmented"]) for part in parts})
    if len({tuple(part["draws"]) for part in parts}) < len(parts):
        message = "two ranks have the same random state: dropout drops alike on them"
        yield fail("random_draws", "", message)
    elif all(part["augments"] for part in parts) and augmented < len(parts):
        yield fail("random_draws", "", "two ranks augment the same samples alike: seed by rank")
    else:
        yield good("random_draws", "random draws and augmentation differ between the ranks")


def mode(e: Evidence) -> Iterator[Finding]:
    """The model is in train mode while it trains, but for what rests on purpose."""
    parts = e.part("after")
    for rank, part in enumerate(parts):
        resting = {path or "(model)" for path in part["resting"]}
        wrong = [path for path in part["in_eval"] or [] if path not in resting]
        if wrong:
            message = f"is in eval mode while it trains, on rank {rank} ({_count(wrong)} in all)"
            yield fail("mode", wrong[0], message, names=wrong)
            return
    if parts:
        yield good("mode", "every module is in train mode while it trains, but for what rests on purpose")


def parameters(e: Evidence) -> Iterator[Finding]:
    """After every step all ranks have the same parameters, bit by bit."""
    parts = e.part("after")
    if not parts or not parts[0]["digests"]:
        return
    for step, rows in enumerate(zip(*(part["digests"] for part in parts)), 1):
        wrong = _differing(list(rows), e.names)
        if wrong:
            late = any(name in part["trained_late"] for part in parts for name in wrong)
            why = ": it was unfrozen after the wrap" if late else ""
            message = f"differs between the ranks after step {step} ({_count(wrong)} in all){why}"
            yield fail("parameters", wrong[0], message, step=step, names=wrong)
            return
    steps = len(parts[0]["digests"])
    yield good("parameters", f"all parameters are the same on {len(parts)} ranks after each of {steps} steps")


def frozen(e: Evidence) -> Iterator[Finding]:
    """What the configuration froze has not moved."""
    parts, start = e.part("after"), e.part("before")[0]
    if not parts or not start["frozen"] or not parts[0]["digests"]:
        return
    rows = zip(e.names, start["wrapped"], parts[0]["digests"][-1])
    moved = [name for name, first, last in rows if name in start["frozen"] and first != last]
    if moved:
        yield fail("frozen", moved[0], f"is frozen, and moved ({_count(moved)} in all)", names=moved)
    else:
        yield good("frozen", f"{len(start['frozen'])} frozen parameters did not move")


def buffers(e: Evidence) -> Iterator[Finding]:
    """DDP keeps registered buffers in step: it gives those of rank 0 to all before a forward."""
    parts = e.part("after")
    if not parts:
        return
    start = e.part("before")[0]["at_wrap"]
    gone = [name for name in start if any(name not in part["final_buffer_names"] for part in parts)]
    if gone:
        message = (
            f"is no registered buffer any more ({_count(gone)} in all): neither DDP nor state_dict sees it"
        )
        yield fail("buffers", gone[0], message, names=gone)
        return
    reassigned = sorted({name for part in parts for name in part["reassigned"]})
    wrong = _differing([part["final_buffers"] for part in parts], parts[0]["final_buffer_names"])
    if wrong:
        message = f"differs between the ranks after a forward ({_count(wrong)} in all): DDP must broadcast it"
        yield fail("buffers", wrong[0], message, names=wrong, reassigned=reassigned)
    elif reassigned and len(parts) > 1:
        message = (
            f"is assigned anew while it trains ({_count(reassigned)} in all): DDP before torch 2 loses it"
        )
        yield Finding("buffers", "warn", reassigned[0], message, {"names": reassigned})
    elif parts[0]["final_buffers"]:
        count = len(parts[0]["final_buffers"])
        yield good("buffers", f"{count} buffers are the same on {len(parts)} ranks after a forward")


def scheduler(e: Evidence) -> Iterator[Finding]:
    """Validation loss, scheduler and learning rates are alike on every rank."""
    parts = e.part("after")
    if not parts or not parts[0]["validations"]:
        return
    for entries in zip(*(part["validations"] for part in parts)):
        keys = [key for key in entries[0] if len({entry[key] for entry in entries}) > 1]
        if keys:
            values = [entry[keys[0]] for entry in entries]
            message = f"differs between the ranks at step {entries[0]['step']}: {values}; reduce the metric"
            yield fail("scheduler", keys[0], f"{message} over the ranks before scheduler.step()")
            return
    if any(part["rates"] != parts[0]["rates"] for part in parts):
        yield fail("scheduler", "lr", "differs between the ranks")
        return
    count = len(parts[0]["validations"])
    message = f"validation loss, ReduceLROnPlateau and rates are the same on {len(parts)} ranks"
    yield good("scheduler", f"{message} at {count} validations")


def loss(e: Evidence) -> Iterator[Finding]:
    """The loss falls when the same batch is trained on again and again."""
    losses = e.ranks[0].get("fixed_batch")
    if not losses:
        return
    said = f"from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps on one batch"
    if not all(math.isfinite(value) for value in losses):
        yield fail("loss_falls", "", f"the loss is not finite: {said}", losses=losses)
    elif not min(losses[-3:]) < losses[0]:
        yield fail("loss_falls", "", f"the loss does not fall: {said}", losses=losses)
    else:
        yield good("loss_falls", f"the loss falls {said}", losses=losses)


def checkpoint(e: Evidence) -> Iterator[Finding]:
    """A save that fails half-way leaves the previous checkpoint."""
    said = e.ranks[0].get("interrupted_save")
    if said:
        yield fail("checkpoint", "", f"{said}: write a temporary file, then os.replace")
    elif said is not None:
        yield good("checkpoint", "a save that fails half-way leaves the previous checkpoint whole")


def resume(e: Evidence) -> Iterator[Finding]:
    """Going on from a checkpoint gives, bit by bit, what not stopping gives."""
    wanted, found = e.part("fingerprint"), e.part("resumed")
    if wanted and found:
        said = f"training resumed at step {found[0]['from']} ({found[0]['where']})"
        wrong = [rank for rank, (a, b) in enumerate(zip(wanted, found)) if a["sums"] != b["sums"]]
        if wrong:
            message = f"{said} ends elsewhere than training that never stopped, on rank {wrong[0]}"
            yield fail("resume", "", message, ranks=wrong)
        else:
            yield good("resume", f"{said} ends bit by bit where training that never stopped ends")
    killed = e.ranks[0].get("killed")
    if killed is not None:
        right = killed["expected"] == killed["step"]
        message = f"killed by SIGKILL after step {killed['at']}, the workers were started again and went on"
        message += f" at step {killed['step']}, where the checkpoint is"
        yield Finding("killed", "pass" if right else "fail", f"rank {killed['rank']}", message, killed)


CHECKS: Sequence[Callable[[Evidence], Iterator[Finding]]] = (
    uneven, initial, unused, optimizer, gradients, sampler, draws, mode, parameters, frozen, buffers,
    scheduler, loss, checkpoint, resume,
)  # fmt: skip


def _differing(rows: list[list[int]], names: list[str]) -> list[str]:
    """The names whose numbers are not the same in all rows."""
    if any(len(row) != len(rows[0]) for row in rows):
        return ["(their number)"]
    return [name for name, *values in zip(names, *rows) if len(set(values)) > 1]


def _near(found: Sequence[float], wanted: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15) for a, b in zip(found, wanted))


def _count(names: Sequence[str]) -> str:
    return str(len(names))
