"""What the frozen part computes: for one sample alone and in a batch, before and after training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inspector.backbones.walk import inside, outermost
from inspector.freezing.batch import copied, distance, narrowed, one_sample
from inspector.freezing.plan import Plan
from inspector.tracing._torch import DropoutNd, NormBase, tree_flatten, tree_leaves, tree_unflatten
from inspector.tracing.capture.isolate import preserved, seed_all
from inspector.tracing.capture.modules import ModuleCall, module_calls, paths_of
from inspector.tracing.values import batch_size, floats

DROPPING = ("StochasticDepth", "DropPath", "DropBlock2d", "PatchDropout")
FEW = 4
"""Samples up to which each is compared: one may be spared by chance."""
ROUNDING = 1e-4
"""Inputs that differ by less between two runs are the same inputs."""


@dataclass
class Seen:
    """One call of a module: its arguments (tensors copied before it could change them) and its float
    outputs."""

    args: Any
    kwargs: Any
    output: list[Tensor] = field(default_factory=list)


@dataclass
class Probe:
    """One frozen module observed in train mode (dropout off, as are the batch norms that train).

    `whole`: all of its parameters are frozen. `through_model`: nothing that trains feeds it, so it runs
    as part of the model; else it runs by itself on the arguments of its first call.
    `apart` is the largest difference between a sample's output alone and inside the batch, relative to
    the largest output; `drift` that between before and after training. None where nothing could be
    compared: `why` gives the reason. `error` is what a batch norm raised on one sample.
    """

    path: str
    whole: bool
    through_model: bool
    seen: Seen
    apart: float | None = None
    drift: float | None = None
    error: str = ""
    why: str = ""


@dataclass
class Probes:
    """All probes of one model. `requires_grad` holds the last module of the frozen stages when its output
    requires grad, `feeding` the trainable parameters that this comes from; `why` says why there are none,
    `outputs` what they give in eval mode."""

    plan: Plan
    args: Any
    kwargs: Any
    seed: int
    observed: list[Probe] = field(default_factory=list)
    requires_grad: str = ""
    feeding: list[str] = field(default_factory=list)
    why: str = ""
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)

    def observe(
        self,
        model: nn.Module,
        paths: Sequence[str],
        args: Any,
        kwargs: Any,
        seed: int,
        training: bool = True,
    ) -> dict[str, Seen]:
        """The first call of each module in one forward, in the order in which they end; in eval mode, which
        the model is in, without `training`."""
        with _observed(model, self.plan, paths, seed, training) as seen, torch.no_grad():
            args, kwargs = copied((args, kwargs))
            model(*args, **kwargs)
        return seen

    @property
    def through(self) -> list[str]:
        """The modules that are observed as part of the model, and give the same each time."""
        return [probe.path for probe in self.observed if probe.through_model and probe.drift is not None]

    def evaluate(self, model: nn.Module) -> None:
        """Keep what the frozen part gives in eval mode, before any training step; what gives something
        else the second time is random, and left out."""
        first, second = (self._evaluated(model) for _ in range(2)) if self.through else ({}, {})
        self.outputs = {
            path: output for path, output in first.items() if distance(output, second.get(path, [])) == 0.0
        }

    def evaluated(self, model: nn.Module) -> None:
        """After training steps, in eval mode: the same arguments must give the same output."""
        after = self._evaluated(model) if self.outputs else {}
        for probe in self.observed:
            if probe.path in self.outputs and probe.drift is not None:
                gap = distance(self.outputs[probe.path], after.get(probe.path, []))
                probe.drift = float("inf") if gap is None else max(gap, probe.drift)

    def _evaluated(self, model: nn.Module) -> dict[str, list[Tensor]]:
        seen = self.observe(model, self.through, self.args, self.kwargs, self.seed, training=False)
        return {path: entry.output for path, entry in seen.items()}

    def again(self, model: nn.Module) -> None:
        """After training steps: the same arguments must give the same output."""
        through = [probe.path for probe in self.observed if probe.through_model]
        seen = self.observe(model, through, self.args, self.kwargs, self.seed) if through else {}
        for probe in self.observed:
            if probe.drift is None:
                continue
            if probe.path in seen:
                after = seen[probe.path].output
            else:
                after = self.called(model, probe.path, probe.seen.args, probe.seen.kwargs)
            gap = distance(probe.seen.output, after)
            probe.drift = float("inf") if gap is None else max(gap, probe.drift)

    def called(self, model: nn.Module, path: str, args: Any, kwargs: Any) -> list[Tensor]:
        """What a module gives when it is called by itself."""
        with preserved(model), torch.no_grad(), _WithoutDropout():
            calm(model, self.plan)
            seed_all(self.seed)
            args, kwargs = copied((args, kwargs))
            return _clones(model.get_submodule(path)(*args, **kwargs))

    def repeats(self, model: nn.Module, probe: Probe) -> bool:
        """Whether the module gives what it gave in the model when it is called again by itself."""
        try:
            output = self.called(model, probe.path, probe.seen.args, probe.seen.kwargs)
        except Exception:  # a cache that has grown, a mask of another size: no evidence, no fault
            return False
        gap = distance(probe.seen.output, output)
        return gap is not None and gap < ROUNDING


def probe(model: nn.Module, plan: Plan, args: Any, kwargs: Any, seed: int) -> Probes:
    """Observe the last module of the frozen stages, and each outermost module frozen by pattern."""
    probes = Probes(plan, args, kwargs, seed)
    prefix = [path for path in plan.prefix if path and (plan.parameters or plan.buffers)]
    units = [path for path in outermost(plan.modules) if not inside(path, prefix)]
    whole = probes.observe(model, [*prefix, *units], args, kwargs, seed)
    probes.why = _nothing_seen([*prefix, *units], whole)
    last = next((path for path in reversed(whole) if path in prefix), None)
    if last is not None:
        _trace_back(probes, model, last)
        probes.observed.append(Probe(last, plan.whole, not probes.feeding, whole[last]))
    frozen = set(plan.parameters)
    for path in units:
        if path in whole and whole[path].output:
            own = [name for name, _ in model.get_submodule(path).named_parameters(path)]
            all_frozen = frozen.issuperset(own)
            probes.observed.append(Probe(path, all_frozen, False, whole[path]))
    _repeat(probes, model)
    _alone(probes, model)
    return probes


def _nothing_seen(paths: Sequence[str], seen: dict[str, Seen]) -> str:
    if not paths:
        return "no module is frozen as a whole"
    if not seen:
        return "no frozen module ran"
    if not any(entry.output for entry in seen.values()):
        return "the frozen modules that ran give no floating-point output"
    return ""


def _trace_back(probes: Probes, model: nn.Module, last: str) -> None:
    """Which trainable parameters the output of the frozen stages depends on."""
    trainable = dict(model.named_parameters())
    names = [name for name in probes.plan.trainable if name in trainable and trainable[name].requires_grad]
    held: list[Tensor] = []

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        held.extend(leaf for leaf in floats(output) if leaf.requires_grad)
        raise _Reached

    with preserved(model), torch.enable_grad():
        calm(model, probes.plan)
        hook = model.get_submodule(last).register_forward_hook(leave)
        args, kwargs = copied((probes.args, probes.kwargs))
        with hook, suppress(_Reached):
            model(*args, **kwargs)
        if held:
            probes.requires_grad = last
            roots = [leaf.sum() for leaf in held]
            grads = torch.autograd.grad(roots, [trainable[n] for n in names], allow_unused=True)
            probes.feeding = [name for name, grad in zip(names, grads) if grad is not None]


class _Reached(Exception):
    """Leaves the forward at the module that is observed."""


def _repeat(probes: Probes, model: nn.Module) -> None:
    """Run again with another seed: what is random cannot be compared between samples. Then see whether
    the module can be observed again after training."""
    paths = [entry.path for entry in probes.observed]
    other = probes.observe(model, paths, probes.args, probes.kwargs, probes.seed + 1) if paths else {}
    for entry in probes.observed:
        if entry.path not in other or distance(entry.seen.output, other[entry.path].output) != 0.0:
            entry.why = "its output is random in train mode, dropout switched off"
        if entry.through_model or probes.repeats(model, entry):
            entry.drift = 0.0


def _alone(probes: Probes, model: nn.Module) -> None:
    """Compare each sample's output alone with its part of the batch's output (of a large batch, the first's
    and the last's)."""
    batch = batch_size(probes.args, probes.kwargs)
    for index in range(batch) if 2 <= batch <= FEW else (0, batch - 1):
        open_ = [entry for entry in probes.observed if not entry.why]
        if open_:
            why, error = _compared(probes, model, open_, batch, index)
            for entry in open_:
                entry.why, entry.error = entry.why or why, error


def _compared(
    probes: Probes, model: nn.Module, open_: list[Probe], batch: int, index: int
) -> tuple[str, str]:
    """Compare one sample; why it could not be, and what a batch norm raised on it."""
    if batch < 2:
        return "one sample is no batch", ""
    args, kwargs = one_sample((probes.args, probes.kwargs), batch, index=index)
    try:
        if _may_be_sequence_first(model, probes):
            cut = _by_the_output(probes, model, batch, index)
            if cut is None:
                return "nothing tells the batch from the sequence (batch_first=False)", ""
            args, kwargs = cut
        alone = probes.observe(model, [entry.path for entry in open_], args, kwargs, probes.seed)
    except Exception as error:
        raised = str(error) if "more than 1 value per channel" in str(error) else ""
        return f"the model does not run on one sample: {type(error).__name__}", raised
    for entry in open_:
        _compare(probes, model, entry, alone.get(entry.path), index)
    return "", ""


def _may_be_sequence_first(model: nn.Module, probes: Probes) -> bool:
    """Whether the first dimension of the input may be the sequence."""
    leaf = _first_tensor(probes)
    sequences = any(getattr(module, "batch_first", True) is False for module in model.modules())
    return sequences and leaf is not None and leaf.dim() == (3 if leaf.is_floating_point() else 2)


def _first_tensor(probes: Probes) -> Tensor | None:
    leaves = tree_leaves((probes.args, probes.kwargs))
    return next((leaf for leaf in leaves if isinstance(leaf, Tensor)), None)


def _by_the_output(probes: Probes, model: nn.Module, batch: int, index: int) -> Any:
    """The arguments for one sample, where the model's own output tells which dimension that is: it gets
    shorter with the batch, and not with a sequence that the model sums up. None where both shorten it, as
    in a model that gives one output for each token."""
    leaf = _first_tensor(probes)
    assert leaf is not None
    inputs = (probes.args, probes.kwargs)
    first = one_sample(inputs, batch, index=index)
    second = one_sample(inputs, leaf.shape[1], dim=1, index=index)
    whole = _shapes(probes, model, inputs)
    shorter = [_shapes(probes, model, cut) != whole for cut in (first, second)]
    if shorter[0] == shorter[1]:
        return None
    return first if shorter[0] else second


def _shapes(probes: Probes, model: nn.Module, inputs: Any) -> list[tuple[int, ...]]:
    """The shapes of the model's outputs."""
    return [tuple(leaf.shape) for leaf in probes.called(model, "", *inputs)]


def _compare(probes: Probes, model: nn.Module, entry: Probe, alone: Seen | None, index: int) -> None:
    """A prefix is compared as it ran. The input of a module in the middle of a model may already depend
    on the batch: then the module is called again on that sample of its own input."""
    if alone is None:
        entry.why = "it does not run on one sample alone"
        return
    gap = _apart(floats((entry.seen.args, entry.seen.kwargs)), floats((alone.args, alone.kwargs)), index)
    output = alone.output
    if not entry.through_model and (gap is None or gap > ROUNDING):
        small = _cut((entry.seen.args, entry.seen.kwargs), (alone.args, alone.kwargs), index)
        if small is None or entry.drift is None:
            entry.why = "its input already depends on the batch"
            return
        try:
            output = probes.called(model, entry.path, *small)
        except Exception as error:  # a cache or a mask of the whole batch among its arguments
            entry.why = f"it cannot be called on one sample by itself: {type(error).__name__}"
            return
    apart = _apart(entry.seen.output, output, index)
    if apart is None:
        entry.why = "its output has another shape for one sample"
    else:
        entry.apart = max(apart, entry.apart or 0.0)


def _cut(whole: Any, alone: Any, index: int) -> Any:
    """The batch's arguments with tensors cut to the shapes that they have for one sample; None where
    the two differ in structure."""
    (large, form), (small, other) = tree_flatten(whole), tree_flatten(alone)
    if form != other:
        return None
    pairs = zip(large, small)
    leaves = [
        narrowed(a, b, index) if isinstance(a, Tensor) and isinstance(b, Tensor) else a for a, b in pairs
    ]
    missing = any(cut is None and isinstance(leaf, Tensor) for cut, leaf in zip(leaves, large))
    return None if missing else tree_unflatten(leaves, form)


def _apart(whole: list[Tensor], alone: list[Tensor], index: int) -> float | None:
    parts = [narrowed(large, small, index) for large, small in zip(whole, alone)]
    if len(whole) != len(alone) or any(part is None for part in parts):
        return None
    return distance([part for part in parts if part is not None], alone)


@contextmanager
def _observed(
    model: nn.Module, plan: Plan, paths: Sequence[str], seed: int, training: bool
) -> Iterator[dict[str, Seen]]:
    """Fill the dict with the first call of each module while the body runs the model."""
    begun: dict[str, Seen] = {}
    ended: dict[str, Seen] = {}

    def enter(call: ModuleCall) -> None:
        if call.path not in begun:
            begun[call.path] = Seen(*copied((call.args, call.kwargs)))

    def leave(call: ModuleCall) -> None:
        if call.path not in ended and call.error is None:
            ended[call.path] = begun[call.path]
            ended[call.path].output = _clones(call.output)

    watched = {id(model.get_submodule(path)): path for path in paths}
    with preserved(model), module_calls(watched, enter, leave), _WithoutDropout():
        if training:
            calm(model, plan)
        seed_all(seed)
        yield ended


def _clones(output: Any) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in floats(output)]


class _WithoutDropout(TorchFunctionMode):
    """Switches off dropout that is no module: `F.dropout(x, self.p, self.training)`, and inside attention."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if "dropout" in name and args and isinstance(args[0], Tensor):
            return args[0]
        if name == "scaled_dot_product_attention":
            kwargs.pop("dropout_p", None)
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
        return func(*args, **kwargs)


def calm(model: nn.Module, plan: Plan) -> None:
    """Switch off what is random in train mode by design, and the batch norms that train, so that the
    comparison shows only what the frozen part does to a batch."""
    paths = paths_of(model)
    norms = [m for m in model.modules() if isinstance(m, NormBase) and paths[id(m)] not in plan.modules]
    for module in (*random_modules(model), *norms):
        module.training = False
    for module in model.modules():
        if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
            module.dropout = 0.0


def random_modules(model: nn.Module) -> list[nn.Module]:
    """Dropout, stochastic depth and the like, with a rate above zero."""
    return [
        module
        for module in model.modules()
        if (isinstance(module, (DropoutNd, nn.RReLU)) or type(module).__name__ in DROPPING)
        and (getattr(module, "p", None) or getattr(module, "drop_prob", None) or isinstance(module, nn.RReLU))
    ]
