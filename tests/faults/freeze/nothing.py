"""Faults by which nothing trains, or something that no parameter list knows of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inspector.freezing import apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import Net, checked, claim, naive, net


@fault("freeze", check="moved")
def everything_was_frozen_before() -> list[Finding]:
    """Two stages are to be frozen, but the whole model was: the head does not train either."""
    model = net()
    model.requires_grad_(False)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="moved")
def optimizer_for_a_frozen_model() -> list[Finding]:
    """A script builds an optimizer, and every parameter is frozen."""
    model = net()
    claimed = claim(model, at=None, patterns=["*"])
    apply(model, claimed)
    return checked(model, claimed, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


@fault("freeze", check="moved")
def pattern_that_takes_the_rest() -> list[Finding]:
    """A pattern freezes the backbone, and the author had frozen the head."""
    model = net()
    model.fc.requires_grad_(False)
    patterns = ["conv1.*", "bn1.*", "layer*"]
    claimed = claim(model, at=None, patterns=patterns)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="moved")
def forward_without_gradients() -> list[Finding]:
    """An inference decorator was left on the forward: the loss has no gradient at all."""

    class Decorated(Net):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    model = net(cls=Decorated)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


class Listed(Net):
    """The stem has a second convolution in a Python list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1.extra = [nn.Conv2d(8, 8, 1)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer1.extra[0](x)
        return self.fc(self.layer3(self.layer2(x)).mean(dim=(2, 3)))


@fault("freeze", check="unregistered")
def layer_in_a_list() -> list[Finding]:
    """requires_grad_(False) does not reach a layer that is kept in a Python list."""
    model = net(cls=Listed)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="unregistered")
def tensor_that_is_no_parameter() -> list[Finding]:
    """A frozen module scales by a plain tensor that requires grad."""

    class Scaled(nn.Conv2d):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.scales = {"gain": torch.ones(1, requires_grad=True)}

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scales["gain"]

    model = net()
    model.layer1 = Scaled(8, 8, 1)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="unregistered")
def tensor_inside_an_object() -> list[Finding]:
    """The same in an attribute of a plain object."""

    class Holder:
        def __init__(self) -> None:
            self.gain = torch.ones(1, requires_grad=True)

    class Held(nn.Conv2d):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.holder = Holder()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.holder.gain

    model = net()
    model.layer1 = Held(8, 8, 1)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@clean("freeze", "unregistered")
def frozen_teacher_in_a_list() -> list[Finding]:
    """A teacher that is hidden from the state_dict on purpose, and gets no gradient."""

    class Student(Net):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = [nn.Linear(8, 5)]

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                aside = self.teacher[0](x.mean(dim=(1, 3))[:, :8])
            return super().forward(x) - aside

    model = net(cls=Student)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@clean("freeze")
def nothing_was_to_train() -> list[Finding]:
    """A frozen feature extractor as it came: a warning that nothing trains, and no failure."""
    model = net()
    patterns = [name for name, _ in model.named_parameters()]
    claimed = claim(model, at=None, patterns=patterns)
    apply(model, claimed)
    findings = checked(model, claimed)
    assert [f.status for f in findings if f.check == "moved"] == ["warn"]
    assert [f.status for f in findings if f.check == "prefix_output"] == ["pass"]
    return findings


@clean("freeze")
def single_parameters() -> list[Finding]:
    """Only biases are frozen: no module is, and the report does not say that none ran."""
    model = net()
    claimed = claim(model, at=None, patterns=["*.bias"])
    naive(model, claimed)
    findings = checked(model, claimed)
    assert [f.message for f in findings if f.check == "prefix_output"] == [
        "not compared: no module is frozen as a whole"
    ]
    return findings
