"""Planted faults of freezing, and clean models."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspector.backbones import find_stages
from inspector.freezing import Plan, apply, plan, verify
from inspector.freezing.apply import Undo, freeze_parameters
from inspector.reporting.report import Finding
from inspector.tracing.capture.isolate import random_state, seed_all

from . import clean, fault

Block = Callable[[int, int], nn.Module]


def conv_norm(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    """A stem and three stages in small; `block` makes the stages, `norm` the stem's normalisation."""

    def __init__(self, block: Block = conv_norm, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn1 = norm(8)
        self.layer1 = block(8, 8)
        self.layer2 = block(8, 8)
        self.layer3 = block(8, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer3(self.layer2(x)).mean(dim=(2, 3)))


def net(*args: Any, cls: type[nn.Module] = Net, **kwargs: Any) -> nn.Module:
    with random_state():
        seed_all(0)
        return cls(*args, **kwargs)


def images(size: int = 16, batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def claim(model: nn.Module, at: int | None = 2, patterns: Sequence[str] = (), norm: str = "freeze") -> Plan:
    return plan(model, find_stages(model) if at is not None else None, at, patterns=patterns, norm=norm)


def checked(model: nn.Module, claimed: Plan, x: Tensor | None = None, **options: Any) -> list[Finding]:
    return verify(model, claimed, (images() if x is None else x,), {}, **{"ddp": False, **options})


def naive(model: nn.Module, claimed: Plan) -> None:
    """requires_grad=False, and nothing else."""
    freeze_parameters(model, claimed, Undo())


@fault("freeze", check="buffers")
def unfrozen_statistics() -> list[Finding]:
    """requires_grad=False alone: the frozen batch norms keep updating their statistics."""
    model = net()
    naive(model, claim(model, norm="train"))
    return checked(model, claim(model, norm="train"))


@fault("freeze", check="batch_independence")
def no_running_statistics() -> list[Finding]:
    """track_running_stats=False: no buffer moves, yet every output depends on the batch."""
    model = net(norm=lambda n: nn.BatchNorm2d(n, track_running_stats=False))
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="batch_independence")
def zero_momentum() -> list[Finding]:
    """momentum=0 keeps the statistics still, but the batch still normalises itself."""
    model = net(norm=lambda n: nn.BatchNorm2d(n, momentum=0.0))
    model.bn1.num_batches_tracked = None
    claimed = claim(model, at=1, norm="train")
    naive(model, claimed)
    return checked(model, claimed)


class BatchScale(nn.Module):
    """Normalises by the batch by hand, in train mode and in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


@fault("freeze", check="batch_independence")
def handmade_batch_norm() -> list[Finding]:
    """A norm of the user's own that no flag can freeze."""
    model = net(norm=lambda n: BatchScale())
    claimed = claim(model, at=1)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="batch_independence")
def pattern_without_statistics() -> list[Finding]:
    """The same for a part that is frozen by pattern, not by stage."""
    model = net(
        block=lambda i, o: nn.Sequential(nn.Conv2d(i, o, 1), nn.BatchNorm2d(o, track_running_stats=False))
    )
    claimed = claim(model, at=None, patterns=["layer2.*"])
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="stale_gradient")
def stale_gradient() -> list[Finding]:
    """Frozen in the middle of training: the last gradient is still there, and AdamW applies it."""
    model = net()
    model(images()).sum().backward()
    before = model.conv1.weight.grad
    claimed = claim(model)
    apply(model, claimed)
    model.conv1.weight.grad = before
    return checked(model, claimed)


@fault("freeze", check="parameters")
def zero_gradient() -> list[Finding]:
    """A gradient of zeros instead of None: weight decay moves the frozen weight."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    model.conv1.weight.grad = torch.zeros_like(model.conv1.weight)
    return checked(model, claimed)


@fault("freeze", check="ties")
def view_tied_weight() -> list[Finding]:
    """A trainable parameter is a view of a frozen one's memory."""
    model = net()
    model.layer3[0].weight = nn.Parameter(model.layer1[0].weight.data.view(8, 8, 3, 3))
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="train_mode")
def eval_undone_by_train() -> list[Finding]:
    """The frozen batch norms were put in eval mode once; the next model.train() undoes it."""
    model = net()
    claimed = claim(model)
    naive(model, claimed)
    for path in claimed.norms:
        model.get_submodule(path).eval()
    return checked(model, claimed)


class Tokens(nn.Module):
    """A small vision transformer with bare parameters."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, 8))
        self.blocks = nn.ModuleList(
            [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True) for _ in range(depth)]
        )
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def tokens_claim(model: nn.Module, at: int) -> Plan:
    from inspector.tracing.capture import capture

    return plan(model, find_stages(model, capture(model, (images().to("meta"),))), at)


@fault("freeze", check="requires_grad")
def missing_cls_token() -> list[Finding]:
    """The bare class token of the stem was forgotten."""
    model = net(cls=Tokens)
    claimed = tokens_claim(model, 2)
    apply(model, claimed)
    model.cls_token.requires_grad_(True)
    return checked(model, claimed)


@fault("freeze", check="gradients")
def missing_position_embedding() -> list[Finding]:
    """The bare position embedding gets a gradient."""
    model = net(cls=Tokens)
    claimed = tokens_claim(model, 1)
    apply(model, claimed)
    model.pos_embed.requires_grad_(True)
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


def replace_trainable(claimed: Plan, model: nn.Module) -> Plan:
    """The claim as it was made before anybody froze anything."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    frozen = set(claimed.parameters)
    return dataclasses.replace(claimed, trainable=tuple(name for name in names if name not in frozen))


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


@fault("freeze", check="buffers")
def spectral_norm_moves() -> list[Finding]:
    """spectral_norm (a parametrization) iterates its vectors in train mode, although frozen."""
    model = net()
    nn.utils.parametrizations.spectral_norm(model.conv1)
    claimed = claim(model, norm="train", at=1)
    naive(model, claimed)
    model.bn1.eval()
    return checked(model, claimed)


@fault("freeze", check="prefix_output")
def spectral_norm_hook_moves() -> list[Finding]:
    """The older spectral_norm (a hook) changes the frozen layer's output from step to step."""
    model = net(norm=lambda n: nn.Identity())
    nn.utils.spectral_norm(model.conv1)
    claimed = claim(model, norm="train", at=1)
    naive(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="parameters")
def forward_overwrites_weight() -> list[Finding]:
    """The frozen layer standardises its weight in place in each forward."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)

    def standardise(module: nn.Module, args: Any) -> None:
        module.weight.data = module.weight.data * 0.99

    model.conv1.register_forward_pre_hook(standardise)
    return checked(model, claimed)


class Codebook(nn.Module):
    """A quantizer whose codes follow the data by a moving average, in a buffer that is reassigned."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("codes", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.codes = 0.9 * self.codes + 0.1 * x.detach().mean(dim=(0, 2, 3))
        return x * self.scale


@fault("freeze", check="buffers")
def moving_average_buffer() -> list[Finding]:
    """A codebook of the frozen part follows the data."""
    model = net(norm=lambda n: Codebook())
    claimed = claim(model, at=1)
    apply(model, claimed)
    return checked(model, claimed)


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer3(self.layer2(x)).detach().mean(dim=(2, 3)))


@fault("freeze", check="moved")
def detached_too_late() -> list[Finding]:
    """The cut with .detach() also cuts off two stages that should train."""
    model = net(cls=Detached)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="moved")
def no_grad_backbone() -> list[Finding]:
    """The whole backbone runs under torch.no_grad(), its upper stages with it."""

    class WithoutGrad(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
                x = self.layer3(self.layer2(x))
            return self.fc(x.mean(dim=(2, 3)))

    model = net(cls=WithoutGrad)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="moved")
def unused_head() -> list[Finding]:
    """A trainable head that the forward does not use."""
    model = net()
    model.auxiliary = nn.Linear(8, 3)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


class Prompted(Net):
    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.zeros(1, 3, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.prompt)


@fault("freeze", check="prefix_grad")
def prompt_before_the_stem() -> list[Finding]:
    """A learnable prompt in front of the frozen stages: the backward runs through all of them."""
    model = net(cls=Prompted)
    claimed = claim(model)
    apply(model, claimed)
    model.prompt.requires_grad_(True)
    return checked(model, replace_frozen(claimed, "prompt"))


def replace_frozen(claimed: Plan, name: str) -> Plan:
    """The claim with one bare parameter left to train."""
    assert claimed.backbone is not None
    stages = tuple(
        dataclasses.replace(stage, parameters=tuple(n for n in stage.parameters if n != name))
        for stage in claimed.backbone.stages
    )
    return dataclasses.replace(
        claimed,
        parameters=tuple(n for n in claimed.parameters if n != name),
        trainable=tuple(dict.fromkeys((*claimed.trainable, name))),
        backbone=dataclasses.replace(claimed.backbone, stages=stages),
    )


@fault("freeze", check="gradients")
def train_unfreezes() -> list[Finding]:
    """The model's own train() sets requires_grad again."""

    class Unfreezing(Net):
        def train(self, mode: bool = True) -> nn.Module:
            for parameter in self.parameters():
                parameter.requires_grad_(mode)
            return super().train(mode)

    model = net(cls=Unfreezing)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="gradients")
def gradient_written_by_a_hook() -> list[Finding]:
    """A hook of another layer writes into the frozen weight's gradient."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)

    class Write(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, module: nn.Module) -> Tensor:
            ctx.module = module
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            ctx.module.weight.grad = torch.ones_like(ctx.module.weight)
            return grad, None

    class Writing(nn.Module):
        def __init__(self, frozen: nn.Module) -> None:
            super().__init__()
            self.frozen = [frozen]

        def forward(self, x: Tensor) -> Tensor:
            return Write.apply(x, self.frozen[0])

    model.layer3 = nn.Sequential(model.layer3, Writing(model.conv1))
    return checked(model, replace_trainable(claimed, model))


def freeze_layer2(wrapped: nn.Module) -> None:
    wrapped.module.layer2.requires_grad_(False)


def unfreeze_layer2(wrapped: nn.Module) -> None:
    wrapped.module.layer2.requires_grad_(True)


@fault("freeze", check="ddp")
def frozen_after_the_wrap() -> list[Finding]:
    """A stage is frozen after DistributedDataParallel has counted on its gradients."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed, ddp=True, prepare=f"{__name__}:freeze_layer2")


@fault("freeze", check="ddp")
def unfrozen_after_the_wrap() -> list[Finding]:
    """Gradual unfreezing after the wrap: the new gradients are never averaged."""
    model = net()
    claimed = claim(model, at=2)
    apply(model, claimed)
    model.layer2.requires_grad_(False)
    return checked(model, claimed, ddp=True, prepare=f"{__name__}:unfreeze_layer2")


@fault("freeze", check="ddp")
def unused_under_ddp() -> list[Finding]:
    """A trainable parameter without a gradient: the second DDP step raises."""
    model = net()
    model.auxiliary = nn.Linear(8, 3)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed, ddp=True)


@fault("freeze", check="optimizer")
def optimizer_before_unfreezing() -> list[Finding]:
    """The optimizer was built from what required grad then; a stage unfrozen later never moves."""
    model = net()
    undo = apply(model, claim(model, at=3))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    undo()
    claimed = claim(model, at=2)
    apply(model, claimed)
    return checked(model, claimed, optimizer=optimizer)


@fault("freeze", check="optimizer")
def optimizer_on_another_copy() -> list[Finding]:
    """The optimizer holds the parameters of a copy."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed, optimizer=torch.optim.AdamW(copy.deepcopy(model).parameters()))


@fault("freeze", check="optimizer")
def optimizer_applies_a_stale_gradient() -> list[Finding]:
    """A frozen parameter is in the optimizer and still holds a gradient."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    model.conv1.bias.grad = torch.ones_like(model.conv1.bias)
    return checked(model, claimed, optimizer=torch.optim.AdamW(model.parameters()))


# Clean models: no check may fail.


def frozen_at(model: nn.Module, at: int, x: Tensor | None = None, **options: Any) -> list[Finding]:
    claimed = claim(model, at)
    apply(model, claimed)
    return checked(model, claimed, x, **options)


@clean("freeze")
def every_n_of_a_small_resnet() -> list[Finding]:
    """A stem and stages, N from 0 to all."""
    return [finding for at in range(5) for finding in frozen_at(net(), at)]


@clean("freeze")
def resnet18_two_stages() -> list[Finding]:
    """torchvision's resnet18 with two stages, and a DDP step."""
    from torchvision.models import resnet18

    return frozen_at(net(cls=resnet18), 2, images(32), ddp=True)


@clean("freeze")
def transformer_with_bare_parameters() -> list[Finding]:
    """Class token, positions, dropout and attention."""
    model = net(cls=Tokens)
    claimed = tokens_claim(model, 3)
    apply(model, claimed)
    return checked(model, claimed)


@clean("freeze")
def statistics_only() -> list[Finding]:
    """--norm eval: weight and bias of the batch norms train."""
    model = net()
    claimed = claim(model, norm="eval")
    apply(model, claimed)
    return checked(model, claimed)


@clean("freeze")
def frozen_by_pattern() -> list[Finding]:
    """A stage in the middle, by pattern."""
    model = net()
    claimed = claim(model, at=None, patterns=["layer2.*", "fc.bias"])
    apply(model, claimed)
    return checked(model, claimed)


@clean("freeze")
def frozen_batch_norm_as_found() -> list[Finding]:
    """torchvision's FrozenBatchNorm2d and requires_grad=False, verified as they came."""
    from torchvision.ops import FrozenBatchNorm2d

    model = net(norm=FrozenBatchNorm2d)
    model.conv1.requires_grad_(False)
    model.layer1[0].requires_grad_(False)
    return checked(model, claim(model, at=None))


@clean("freeze")
def spectral_norm_rests() -> list[Finding]:
    """Both forms of spectral_norm in the frozen part."""
    model = net()
    nn.utils.parametrizations.spectral_norm(model.conv1)
    nn.utils.spectral_norm(model.layer1[0])
    return frozen_at(model, 2)


@clean("freeze")
def weight_norm_rests() -> list[Finding]:
    """Both forms of weight_norm, frozen and trainable."""
    model = net()
    nn.utils.parametrizations.weight_norm(model.conv1)
    nn.utils.parametrizations.weight_norm(model.layer2[0])
    return frozen_at(model, 2)


@clean("freeze")
def tied_weights_all_frozen() -> list[Finding]:
    """One parameter under two names, both in the frozen part."""
    model = net()
    model.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    model.layer1[1].weight = model.layer1[0].weight
    return frozen_at(model, 2)


@clean("freeze")
def bfloat16_model() -> list[Finding]:
    """Steps that move every weight although bfloat16 rounds."""
    return frozen_at(net().bfloat16(), 2, images().bfloat16())


@clean("freeze")
def filtered_optimizer() -> list[Finding]:
    """The optimizer of a careful script."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    return checked(model, claimed, optimizer=optimizer)


@clean("freeze")
def trainable_head_that_needs_a_batch() -> list[Finding]:
    """An auxiliary head between the frozen stages, whose batch norm raises on one sample alone."""

    class Auxiliary(Net):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Any:
            x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
            aside = self.auxiliary(x)
            return self.fc(self.layer3(self.layer2(x)).mean(dim=(2, 3))), aside

    return frozen_at(net(cls=Auxiliary), 3)


@clean("freeze")
def functional_dropout() -> list[Finding]:
    """Dropout without a module, and dropout inside attention: random, yet not mixed by the batch."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(8, 24)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.project(x).chunk(3, dim=-1)
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5 if self.training else 0.0)
            return F.dropout(x, 0.5, self.training)

    class Attending(Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(Attention()) for _ in range(4)])

    model = net(cls=Attending)
    claimed = tokens_claim(model, 3)
    apply(model, claimed)
    findings = checked(model, claimed)
    assert [f.status for f in findings if f.check == "batch_independence"] == ["pass"]
    return findings


@clean("freeze")
def noise_without_a_name() -> list[Finding]:
    """Noise that no rule knows: the comparison is skipped, and says so."""

    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x) if self.training else x

    model = net(norm=lambda n: Noise())
    claimed = claim(model, at=1)
    apply(model, claimed)
    findings = checked(model, claimed)
    assert [f.status for f in findings if f.check == "batch_independence"] == ["skip"]
    return findings


@clean("freeze")
def tied_to_a_trainable_name() -> list[Finding]:
    """An output layer that is the frozen embedding itself: said, not accused."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(3, 8, bias=False)
            self.mix = nn.Linear(8, 8)
            self.head = nn.Linear(3, 8, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(self.embed(x.mean(dim=(2, 3)))) @ self.head.weight

    model = net(cls=Tied)
    claimed = claim(model, at=None, patterns=["embed.weight"])
    apply(model, claimed)
    findings = checked(model, claimed)
    assert [f.subject for f in findings if f.check == "ties" and f.status == "warn"] == ["head.weight"]
    return findings


@fault("freeze", check="optimizer")
def learning_rate_of_zero() -> list[Finding]:
    """A group whose learning rate is 0: what should train never moves."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    groups = [{"params": model.layer2.parameters(), "lr": 0.0}, {"params": [*model.layer3.parameters()]}]
    groups.append({"params": model.fc.parameters()})
    return checked(model, claimed, optimizer=torch.optim.SGD(groups, lr=0.1))


@fault("freeze", check="batch_independence")
def pattern_beside_stages() -> list[Finding]:
    """A stage by number and another part by pattern, whose batch norm has no statistics."""
    model = net()
    model.layer3[1] = nn.BatchNorm2d(8, track_running_stats=False)
    claimed = claim(model, at=1, patterns=["layer3.*"])
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="buffers")
def shared_batch_norm() -> list[Finding]:
    """One batch norm under two names, frozen under the second by requires_grad alone."""
    model = net()
    model.layer3[1] = model.layer2[1]
    claimed = claim(model, at=None, patterns=["layer3.1.*"], norm="train")
    naive(model, claimed)
    return checked(model, claimed)


@clean("freeze")
def sequence_first() -> list[Finding]:
    """A recurrent layer whose first dimension is the sequence, frozen in the middle of a model."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 6, 4, stride=4)
            self.lstm = nn.LSTM(6, 5, bidirectional=True)
            self.fc = nn.Linear(10, 2)

        def forward(self, x: Tensor) -> Tensor:
            steps = self.embed(x).flatten(2).permute(2, 0, 1)
            return self.fc(self.lstm(steps)[0][-1])

    model = net(cls=Reader)
    claimed = claim(model, at=None, patterns=["lstm.*"])
    apply(model, claimed)
    findings = checked(model, claimed)
    assert [f.status for f in findings if f.check == "batch_independence"] == ["pass"]
    return findings


@clean("freeze")
def layers_dropped_at_random() -> list[Finding]:
    """A trainable block that most steps leave out (layer drop)."""

    class Dropping(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
            if not self.training or torch.rand(()) < 0.3:
                x = self.layer2(x)
            return self.fc(self.layer3(x).mean(dim=(2, 3)))

    return frozen_at(net(cls=Dropping), 2)


@clean("freeze")
def inputs_changed_in_place() -> list[Finding]:
    """A model that normalises its input in place, and a frozen block that begins with an in-place op."""

    class InPlace(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5).div_(0.25))

    model = net(cls=InPlace)
    model.layer1 = nn.Sequential(nn.Conv2d(8, 8, 1))
    model.layer2 = nn.Sequential(nn.SiLU(inplace=True), nn.Conv2d(8, 8, 1))
    claimed = claim(model, at=1, patterns=["layer2.*"])
    apply(model, claimed)
    return checked(model, claimed)


@clean("freeze")
def buffer_made_in_the_forward() -> list[Finding]:
    """A buffer that the first forward registers."""

    class Masked(Net):
        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "mask"):
                self.register_buffer("mask", torch.ones(16, 16))
            return super().forward(x * self.mask)

    return frozen_at(net(cls=Masked), 2)
