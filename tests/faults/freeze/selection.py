"""Faults of what is frozen: too much, too little, or something forgotten."""

from __future__ import annotations

from inspector.freezing import apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import Tokens, checked, claim, frozen_at, net, replace_trainable, tokens_claim


@fault("freeze", check="requires_grad")
def missing_cls_token() -> list[Finding]:
    """The bare class token of the stem was forgotten."""
    model = net(cls=Tokens)
    claimed = tokens_claim(model, 2)
    apply(model, claimed)
    model.cls_token.requires_grad_(True)
    return checked(model, claimed)


@fault("freeze", check="requires_grad")
def one_stage_too_many() -> list[Finding]:
    """Off by one: range(N + 1) is frozen."""
    model = net()
    apply(model, claim(model, at=3))
    return checked(model, replace_trainable(claim(model, at=2), model))


@fault("freeze", check="requires_grad")
def one_stage_too_few() -> list[Finding]:
    """Off by one: detectron2's N where maskrcnn's was meant (1 = stem against range(N))."""
    model = net()
    claimed = claim(model, at=2)
    apply(model, claim(model, at=1))
    return checked(model, claimed)


@fault("freeze", check="requires_grad")
def biases_forgotten() -> list[Finding]:
    """Only the weights were frozen."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    for name in claimed.parameters:
        if name.endswith("bias"):
            model.get_parameter(name).requires_grad_(True)
    return checked(model, claimed)


@fault("freeze", check="parameters")
def affine_left_trainable() -> list[Finding]:
    """Weight and bias of the frozen batch norms still train."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    model.bn1.weight.requires_grad_(True)
    return checked(model, claimed)


@clean("freeze")
def every_n_of_a_small_resnet() -> list[Finding]:
    """A stem and stages, N from 0 to all."""
    return [finding for at in range(5) for finding in frozen_at(net(), at)]


@clean("freeze")
def transformer_with_bare_parameters() -> list[Finding]:
    """Class token, positions, dropout and attention."""
    model = net(cls=Tokens)
    claimed = tokens_claim(model, 3)
    apply(model, claimed)
    return checked(model, claimed)


@clean("freeze")
def frozen_by_pattern() -> list[Finding]:
    """A stage in the middle, by pattern."""
    model = net()
    claimed = claim(model, at=None, patterns=["layer2.*", "fc.bias"])
    apply(model, claimed)
    return checked(model, claimed)
