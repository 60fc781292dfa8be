"""Faults of hooks, of optimizers' hooks, and of what runs only now and then."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from inspector.freezing import Plan, apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import Net, checked, claim, net


def _frozen(at: int = 2, **options: Any) -> tuple[Any, Plan]:
    model = net(**options)
    claimed = claim(model, at)
    apply(model, claimed)
    return model, claimed


def _drift(tensor: Tensor) -> None:
    with torch.no_grad():
        tensor.mul_(0.999)


@fault("freeze", check="parameters")
def accumulation_hook_moves_a_frozen_weight() -> list[Finding]:
    """register_post_accumulate_grad_hook of the head writes the stem."""
    model, claimed = _frozen()
    model.fc.weight.register_post_accumulate_grad_hook(lambda parameter: _drift(model.conv1.weight))
    return checked(model, claimed)


@fault("freeze", check="parameters")
def gradient_hook_moves_a_frozen_weight() -> list[Finding]:
    """A gradient hook of a trainable parameter writes a frozen one."""
    model, claimed = _frozen()

    def follow(grad: Tensor) -> None:
        _drift(model.bn1.weight)

    model.layer3[0].weight.register_hook(follow)
    return checked(model, claimed)


@fault("freeze", check="parameters")
def backward_hook_moves_a_frozen_weight() -> list[Finding]:
    """A module's full backward hook writes a frozen weight."""
    model, claimed = _frozen()
    model.fc.register_full_backward_hook(lambda module, inputs, outputs: _drift(model.conv1.bias))
    return checked(model, claimed)


@fault("freeze", check="parameters")
def forward_hook_of_another_layer() -> list[Finding]:
    """The head's forward hook is a closure over the frozen stem."""
    model, claimed = _frozen()
    stem = model.conv1
    model.fc.register_forward_hook(lambda module, args, output: _drift(stem.weight))
    return checked(model, claimed)


class Callback:
    """An object that holds the model, as trainers do."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def on_gradient(self, grad: Tensor) -> None:
        _drift(self.model.conv1.weight)


@fault("freeze", check="parameters")
def hook_is_a_method_of_a_trainer() -> list[Finding]:
    """The gradient hook is a bound method of an object that holds the model."""
    model, claimed = _frozen()
    model.fc.bias.register_hook(Callback(model).on_gradient)
    return checked(model, claimed)


def _every(number: int) -> Callable[[Any, Any], None]:
    calls = 0

    def now_and_then(module: Any, args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls % number == 0:
            _drift(module.weight)

    return now_and_then


@fault("freeze", check="parameters")
def update_every_fifth_forward() -> list[Finding]:
    """The stem is renormalised at every fifth forward: two steps would not show it."""
    model, claimed = _frozen()
    model.conv1.register_forward_pre_hook(_every(5))
    return checked(model, claimed)


@fault("freeze", check="parameters")
def update_that_more_steps_show() -> list[Finding]:
    """At every twentieth forward: as many steps as the user gives."""
    model, claimed = _frozen()
    model.conv1.register_forward_pre_hook(_every(20))
    assert not any(f.status == "fail" for f in checked(model, claimed))
    return checked(model, claimed, steps=20)


class Clipped(nn.Module):
    """A parametrization that clips its original in place."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            weight.clamp_(-0.05, 0.05)
        return weight * 1.0


@fault("freeze", check="parameters")
def parametrization_moves_its_original() -> list[Finding]:
    """A parametrization of the frozen stem writes the original whenever the weight is read."""
    model = net()
    with torch.no_grad():
        model.conv1.weight.mul_(3.0)
    nn.utils.parametrize.register_parametrization(model.conv1, "weight", Clipped(), unsafe=True)
    with torch.no_grad():
        model.conv1.parametrizations.weight.original.add_(0.1)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="hooks")
def hook_that_no_copy_can_have() -> list[Finding]:
    """A hook over several gradients holds nodes of autograd, which nothing can copy: --strict fails."""
    model, claimed = _frozen()
    weights = [model.fc.weight, model.fc.bias]
    torch.autograd.graph.register_multi_grad_hook(weights, lambda grads: _drift(model.conv1.weight))
    return checked(model, claimed, strict=True)


@fault("freeze", check="moved")
def gradient_silenced_by_a_hook() -> list[Finding]:
    """A leftover hook multiplies the gradient of a stage that should train by zero."""
    model, claimed = _frozen()
    model.layer3[0].weight.register_hook(lambda grad: grad * 0)
    return checked(model, claimed)


@fault("freeze", check="optimizer")
def optimizer_hook_moves_a_frozen_weight() -> list[Finding]:
    """A step hook of the script's own optimizer averages the stem: our optimizers do not have it."""
    model, claimed = _frozen()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer.register_step_post_hook(lambda optimizer, args, kwargs: _drift(model.conv1.weight))
    return checked(model, claimed, optimizer=optimizer)


class Averaging(torch.optim.SGD):
    """Writes a moving average into tensors of its own choice at each step."""

    def __init__(self, parameters: Any, averaged: list[Tensor]) -> None:
        super().__init__(parameters, lr=0.1)
        self.averaged = averaged

    def step(self, closure: Any = None) -> Any:
        for tensor in self.averaged:
            _drift(tensor)
        return super().step(closure)


@fault("freeze", check="optimizer")
def optimizer_of_one_s_own_moves_a_frozen_weight() -> list[Finding]:
    """A subclass keeps frozen parameters as an attribute, in no group."""
    model, claimed = _frozen()
    trainable = [p for p in model.parameters() if p.requires_grad]
    return checked(model, claimed, optimizer=Averaging(trainable, [model.conv1.weight]))


@fault("freeze", check="optimizer")
def optimizer_that_moves_nothing() -> list[Finding]:
    """A pre-hook clears all gradients before each step."""
    model, claimed = _frozen()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.0)
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: optimizer.zero_grad())
    return checked(model, claimed, optimizer=optimizer)


@fault("freeze", check="optimizer")
def optimizer_that_cannot_step() -> list[Finding]:
    """Weight decay on the sparse gradients of an embedding: the first real step would raise."""
    model = net(cls=Words)
    claimed = claim(model, at=None, patterns=["mix.*"])
    apply(model, claimed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    return checked(model, claimed, torch.tensor([[1, 2, 3], [4, 5, 6]]), optimizer=optimizer)


class Words(nn.Module):
    """An embedding with sparse gradients: (N, L) ids to (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4, sparse=True)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.mix(self.embed(ids).mean(1))))


@fault("freeze", check="optimizer")
def step_hook_unfreezes() -> list[Finding]:
    """After the first step a hook of the optimizer lets the stem require grad again."""
    model, claimed = _frozen()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer.register_step_post_hook(lambda *args: model.conv1.weight.requires_grad_(True) and None)
    return checked(model, claimed, optimizer=optimizer)


GLOBAL: dict[str, nn.Module] = {}


def _by_name(module: nn.Module, args: Any, output: Any) -> None:
    _drift(GLOBAL["model"].conv1.weight)


@fault("freeze", check="parameters")
def hook_that_reads_a_global() -> list[Finding]:
    """A hook at the top of a script names the model as a global variable."""
    model, claimed = _frozen()
    GLOBAL["model"] = model
    model.fc.register_forward_hook(_by_name)
    return checked(model, claimed)


@fault("freeze", check="parameters")
def partial_of_a_function() -> list[Finding]:
    """functools.partial binds the frozen weight to the hook."""
    model, claimed = _frozen()

    def move(target: Tensor, module: Any, args: Any) -> None:
        _drift(target)

    model.fc.register_forward_pre_hook(functools.partial(move, model.conv1.weight))
    return checked(model, claimed)


@fault("freeze", check="parameters")
def forward_that_is_a_closure() -> list[Finding]:
    """A stage's forward was replaced by a function over the whole model."""
    model, claimed = _frozen()
    inner = model.layer2.forward

    def forward(x: Tensor) -> Tensor:
        _drift(model.conv1.weight)
        return inner(x)

    model.layer2.forward = forward
    return checked(model, claimed)


@fault("freeze", check="parameters")
def weight_made_anew_by_each_forward() -> list[Finding]:
    """The forward registers a new frozen parameter in the place of the old one."""

    class Anew(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.conv1.weight = nn.Parameter(0.99 * self.conv1.weight.detach(), requires_grad=False)
            return super().forward(x)

    model, claimed = _frozen(cls=Anew)
    return checked(model, claimed)


@fault("freeze", check="parameters")
def teacher_that_follows_the_student() -> list[Finding]:
    """A frozen teacher is the moving average of a trainable layer."""

    class Taught(Net):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.teacher.weight.lerp_(self.fc.weight, 0.01)
            return super().forward(x)

    model = net(cls=Taught)
    claimed = claim(model, at=None, patterns=["teacher.*"])
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="requires_grad")
def stem_replaced_in_the_first_forward() -> list[Finding]:
    """The first forward puts a trainable copy in the place of the frozen stem: bytes tell nothing."""

    class Replacing(Net):
        replaced = False

        def forward(self, x: Tensor) -> Tensor:
            if not self.replaced:
                self.replaced = True
                stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
                stem.load_state_dict(self.conv1.state_dict())
                self.conv1 = stem
            return super().forward(x)

    model, claimed = _frozen(cls=Replacing)
    return checked(model, claimed)


@fault("freeze", check="moved")
def loss_without_a_gradient() -> list[Finding]:
    """The output is multiplied by a schedule that is still zero: nothing learns."""

    class Scheduled(Net):
        def forward(self, x: Tensor) -> Tensor:
            return 0.0 * super().forward(x)

    model, claimed = _frozen(cls=Scheduled)
    return checked(model, claimed)


@clean("freeze")
def sparse_embedding() -> list[Finding]:
    """Sparse gradients, with the optimizer that wants them."""
    model = net(cls=Words)
    claimed = claim(model, at=None, patterns=["mix.*"])
    apply(model, claimed)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    own = torch.optim.SparseAdam(model.embed.parameters())
    findings = checked(model, claimed, ids, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    return findings + [f for f in checked(model, claimed, ids, optimizer=own) if f.check != "optimizer"]


@clean("freeze", "hooks", "optimizer", "parameters")
def hooks_that_do_no_harm() -> list[Finding]:
    """Gradient scaling, logging, an average of a trainable weight: all run on the copy, none on the model."""
    model, claimed = _frozen()
    log: list[float] = []
    model.fc.weight.register_hook(lambda grad: 0.5 * grad)
    model.fc.weight.register_post_accumulate_grad_hook(lambda p: log.append(float(p.grad.norm())))
    model.layer3.register_forward_hook(lambda module, args, output: output * 1.0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    optimizer.register_step_post_hook(lambda optimizer, args, kwargs: _drift(model.fc.weight))
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # wraps step()
    before = [parameter.clone() for parameter in model.parameters()]
    findings = checked(model, claimed, optimizer=optimizer)
    assert all(map(torch.equal, before, model.parameters()))
    assert not log
    assert not optimizer.state
    return findings


@clean("freeze")
def optimizer_in_the_backward() -> list[Finding]:
    """torch's tutorial: a hook steps an optimizer of its own and drops the gradient at once."""
    model, claimed = _frozen()
    optimizers = {p: torch.optim.Adam([p], lr=1e-3) for p in model.parameters() if p.requires_grad}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(step)
    return checked(model, claimed)


@clean("freeze", "optimizer")
def optimizer_with_a_closure() -> list[Finding]:
    """LBFGS evaluates the model by itself."""
    model, claimed = _frozen()
    trainable = [p for p in model.parameters() if p.requires_grad]
    return checked(model, claimed, optimizer=torch.optim.LBFGS(trainable, max_iter=2))
