"""The stages of known backbones, held against what torchvision and timm publish and against hand counts."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import log2, prod
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from inspector.backbones import Backbone, Stage, find_stages
from inspector.backbones.partition import partition
from inspector.backbones.report import stages as report_of
from inspector.backbones.resolution import by_resolution
from inspector.backbones.walk import Walk
from inspector.core.errors import InspectError
from inspector.models import resolve
from inspector.profiling.run import trace
from inspector.tracing.record import Trace

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.once]
"""On the oldest torch the comparison with the baseline holds the stages of every model of torchvision."""


@cache
def built(spec: str) -> nn.Module:
    return resolve(spec).build("meta")


def traced(spec: str) -> Trace:
    """The pass over the model that is `built`: it leaves it as it was."""
    return trace(replace(resolve(spec), construct=lambda: built(spec), rebuilds=False))


@cache
def backbone(spec: str) -> Backbone:
    return find_stages(built(spec), traced(spec))


def ran(model: nn.Module, *shape: int) -> Backbone:
    return find_stages(model, trace(model, torch.zeros(shape)))


def numel(spec: str, names: tuple[str, ...]) -> int:
    sizes = {name: p.numel() for name, p in built(spec).named_parameters(remove_duplicate=False)}
    return sum(sizes[name] for name in names)


def children(stage: Stage, home: str) -> list[int]:
    """The indices of the stage's modules in the container `home`."""
    return [int(path.removeprefix(home + ".")) for path in stage.modules if path.startswith(home + ".")]


def assert_partition(model: nn.Module, found: Backbone) -> None:
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    placed = [*(name for stage in found.stages for name in stage.parameters), *found.rest]
    assert sorted(placed) == sorted(names)
    assert [stage.index for stage in found.stages] == list(range(len(found.stages)))
    assert all(stage.parameters for stage in found.stages)


# Numbered children.


def test_resnet50_has_the_five_stages_of_its_paper() -> None:
    found = backbone("resnet50")
    assert found.rule == "attributes: stem, layer1 to layer4"
    assert found.stages[0].modules == ("conv1", "bn1", "relu", "maxpool")
    assert [stage.modules for stage in found.stages[1:]] == [(f"layer{i}",) for i in range(1, 5)]
    # Stem: 64 filters of 7x7x3, scale and shift of 64 channels. Layers: He et al., table 1.
    counts = [64 * 3 * 49 + 128, 215_808, 1_219_584, 7_098_368, 14_964_736]
    assert [numel("resnet50", stage.parameters) for stage in found.stages] == counts
    assert found.rest == ("fc.weight", "fc.bias")
    assert numel("resnet50", found.rest) == 2048 * 1000 + 1000
    assert [stage.resolution for stage in found.stages] == [(56, 56), (56, 56), (28, 28), (14, 14), (7, 7)]


def test_a_detector_has_the_stages_that_torchvision_freezes() -> None:
    # _resnet_fpn_extractor trains the first n of this list, and bn1 with n = 5.
    order = ["layer4", "layer3", "layer2", "layer1", "conv1"]
    found = backbone("fasterrcnn_resnet50_fpn")
    for stage, name in zip(found.stages, reversed(order)):
        assert f"backbone.body.{name}" in stage.modules
    assert "transform" not in found.stages[0].modules
    assert {name.split(".")[1] for name in found.rest if name.startswith("backbone.")} == {"fpn"}
    assert {name.split(".")[0] for name in found.rest} == {"backbone", "rpn", "roi_heads"}


def test_segmentation_finds_the_backbone_and_leaves_both_heads() -> None:
    found = backbone("deeplabv3_resnet50")
    assert [stage.modules[-1] for stage in found.stages[1:]] == [f"backbone.layer{i}" for i in range(1, 5)]
    assert {name.split(".")[0] for name in found.rest} <= {"classifier", "aux_classifier"}
    # Dilated: output stride 8 from layer2 on, 520 / 8 = 65.
    assert [stage.resolution for stage in found.stages[2:]] == [(65, 65)] * 3


def test_video_resolutions_have_time() -> None:
    sizes = [stage.resolution for stage in backbone("r3d_18").stages]
    # 16 frames of 112: the stem halves space, layer2 to layer4 halve time and space.
    assert sizes == [(16, 56, 56), (16, 56, 56), (8, 28, 28), (4, 14, 14), (2, 7, 7)]


def test_densenet_transitions_open_the_stage_that_follows() -> None:
    found = backbone("densenet121")
    assert [stage.modules for stage in found.stages] == [
        tuple(f"features.{name}" for name in ("conv0", "norm0", "relu0", "pool0")),
        ("features.denseblock1",),
        *((f"features.transition{i}", f"features.denseblock{i + 1}") for i in (1, 2, 3)),
    ]
    assert [stage.resolution for stage in found.stages] == [(56, 56), (56, 56), (28, 28), (14, 14), (7, 7)]
    assert {name.rpartition(".")[0] for name in found.rest} == {"features.norm5", "classifier"}


def test_regnet_blocks_lie_below_the_trunk_and_its_stem_beside() -> None:
    found = backbone("regnet_y_400mf")
    expected = [("stem",), *((f"trunk_output.block{i}",) for i in (1, 2, 3, 4))]
    assert [stage.modules for stage in found.stages] == expected


def test_shufflenet_starts_counting_at_stage2() -> None:
    found = backbone("shufflenet_v2_x1_0")
    expected = [("conv1", "maxpool"), ("stage2",), ("stage3",), ("stage4",)]
    assert [stage.modules for stage in found.stages] == expected
    assert {name.split(".")[0] for name in found.rest} == {"conv5", "fc"}


# Containers.


@pytest.mark.parametrize("spec", ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"])
def test_mobilenets_are_cut_where_torchvision_cuts_them(spec: str) -> None:
    features: Any = built(spec).features
    # _mobilenet_extractor of torchvision/models/detection/backbone_utils.py
    marked = [i for i, b in enumerate(features) if getattr(b, "_is_cn", False)]
    starts = [0, *marked, len(features) - 1]
    found = backbone(spec)
    assert [children(stage, "features")[0] for stage in found.stages] == starts
    assert [i for stage in found.stages for i in children(stage, "features")] == list(range(len(features)))


def test_a_detector_on_mobilenet_is_cut_at_the_same_places() -> None:
    found = backbone("fasterrcnn_mobilenet_v3_large_320_fpn")
    body = [children(stage, "backbone.body") for stage in found.stages]
    assert body == [children(stage, "features") for stage in backbone("mobilenet_v3_large").stages]


@pytest.mark.parametrize("spec", ["convnext_tiny", "swin_t"])
def test_patchify_networks_of_torchvision_join_each_downsampling_with_its_blocks(spec: str) -> None:
    found = backbone(spec)
    pairs = [children(stage, "features") for stage in found.stages]
    assert pairs == [[0], [1], [2, 3], [4, 5], [6, 7]]
    assert [stage.resolution for stage in found.stages] == [(56, 56), (56, 56), (28, 28), (14, 14), (7, 7)]


def test_efficientnet_has_the_nine_stages_of_its_table() -> None:
    found = backbone("efficientnet_b0")
    assert [children(stage, "features") for stage in found.stages] == [[i] for i in range(9)]
    # Tan and Le, table 1, the resolution that each stage leaves (theirs is the one it reads).
    sides = [112, 112, 56, 28, 14, 14, 7, 7, 7]
    assert [stage.resolution for stage in found.stages] == [(side, side) for side in sides]


def test_mnasnet_stacks_are_stages_and_its_last_convolution_too() -> None:
    found = backbone("mnasnet1_0")
    # Tan et al., figure 7: a convolution and a separable one, six stacks, a 1x1 convolution.
    homes = [children(stage, "layers") for stage in found.stages]
    assert homes[0] == list(range(8))
    assert [home[0] for home in homes[1:]] == [8, 9, 10, 11, 12, 13, 14]


def test_maxvit_has_a_stem_and_four_blocks() -> None:
    found = backbone("maxvit_t")
    expected = [("stem",), *((f"blocks.{i}",) for i in range(4))]
    assert [stage.modules for stage in found.stages] == expected
    assert [stage.resolution for stage in found.stages[1:]] == [(56, 56), (28, 28), (14, 14), (7, 7)]


# The resolution.


def test_vgg16_stages_start_at_its_poolings() -> None:
    features: Any = built("vgg16").features
    # _vgg_extractor of torchvision/models/detection/ssd.py
    starts = [0, *[i for i, b in enumerate(features) if isinstance(b, nn.MaxPool2d)][:-1]]
    found = backbone("vgg16")
    assert found.rule == "resolution changes in a meta forward"
    assert [children(stage, "features")[0] for stage in found.stages] == starts
    assert {name.split(".")[0] for name in found.rest} == {"classifier"}


def test_alexnet_has_three_resolutions() -> None:
    # 224 -> 55 (stride 4), pooled to 27, pooled to 13; the last pooling stays with what it pools.
    starts = [children(stage, "features")[0] for stage in backbone("alexnet").stages]
    assert starts == [0, 2, 5]


def test_googlenet_is_cut_at_its_four_poolings() -> None:
    found = backbone("googlenet")
    assert [stage.modules[0] for stage in found.stages[1:]] == [f"maxpool{i}" for i in (1, 2, 3, 4)]
    assert [stage.resolution for stage in found.stages] == [(s, s) for s in (112, 56, 28, 14, 7)]
    assert {name.split(".")[0] for name in found.rest} == {"aux1", "aux2", "fc"}


def test_inception_keeps_reducing_blocks_whole_and_leaves_the_auxiliary_head() -> None:
    found = backbone("inception_v3")
    firsts = [stage.modules[0] for stage in found.stages]
    assert firsts == ["Conv2d_1a_3x3", "maxpool1", "maxpool2", "Mixed_6a", "Mixed_7a"]
    assert {name.split(".")[0] for name in found.rest} == {"AuxLogits", "fc"}
    # Szegedy et al. 2016, table 1: 147, 71, 35, 17, 8.
    assert [stage.resolution for stage in found.stages] == [(s, s) for s in (147, 71, 35, 17, 8)]


def test_squeezenet_is_cut_at_its_poolings() -> None:
    features: Any = built("squeezenet1_1").features
    pools = [i for i, b in enumerate(features) if isinstance(b, nn.MaxPool2d)]
    starts = [children(stage, "features")[0] for stage in backbone("squeezenet1_1").stages]
    assert starts == [0, *pools]


def test_mvit_is_cut_where_its_tokens_are_pooled() -> None:
    found = backbone("mvit_v1_b")
    # Fan et al., table 2: scales of 1, 2, 11 and 2 blocks after the patches.
    assert [len(children(stage, "blocks")) for stage in found.stages] == [0, 1, 2, 11, 2]
    assert found.stages[-1].resolution == (8 * 7 * 7 + 1,)


def test_layers_that_are_used_twice_do_not_confuse_the_order() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool2d(2)
            self.act = nn.ReLU()
            self.a = nn.Conv2d(3, 4, 3, padding=1)
            self.b = nn.Conv2d(4, 8, 3, padding=1)
            self.head = nn.Linear(8 * 8 * 8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.pool(self.act(self.a(x)))
            x = self.pool(self.act(self.b(x)))
            return self.head(x.flatten(1))

    found = ran(Small(), 1, 3, 32, 32)
    assert [stage.parameters for stage in found.stages] == [("a.weight", "a.bias"), ("b.weight", "b.bias")]
    assert found.rest == ("head.weight", "head.bias")


def test_a_decoder_is_in_no_stage() -> None:
    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
            self.deep = nn.Conv2d(4, 8, 3, stride=2, padding=1)
            self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
            self.out = nn.Conv2d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.down(x)
            return self.out(torch.cat((first, self.up(self.deep(first))), 1))

    found = ran(UNet(), 1, 3, 32, 32)
    assert [stage.modules for stage in found.stages] == [("down",), ("deep",)]
    assert {name.split(".")[0] for name in found.rest} == {"up", "out"}


@pytest.mark.parametrize("shape", [(1, 3, 224, 160), (1, 3, 96, 256)])
def test_channels_last_is_told_by_the_proportions_of_the_image(shape: tuple[int, ...]) -> None:
    model = built("swin_t")
    found = find_stages(model, trace("swin_t", torch.zeros(shape, device="meta")))
    # A side that is no multiple is padded to the next even number before it is halved.
    sides = [(shape[2] // 4, shape[3] // 4)] * 2
    for _ in range(3):
        sides.append((-(-sides[-1][0] // 2), -(-sides[-1][1] // 2)))
    assert [stage.resolution for stage in found.stages] == sides


# Isotropic transformers.


def test_vit_has_a_stem_and_four_groups_of_three_blocks() -> None:
    found = backbone("vit_b_16")
    assert found.rule == "even split of 12 blocks (encoder.layers)"
    assert {name.rpartition(".")[0] or name for name in found.stages[0].parameters} == {
        "class_token", "conv_proj", "encoder",
    }  # fmt: skip
    # A block: 12 d^2 + 13 d with d = 768; the stem: patches, class token, positions.
    assert [numel("vit_b_16", stage.parameters) for stage in found.stages[1:]] == [
        3 * (12 * 768**2 + 13 * 768)
    ] * 4
    assert numel("vit_b_16", found.stages[0].parameters) == 768 * (16 * 16 * 3 + 1) + 768 + 197 * 768
    assert {name.rpartition(".")[0] for name in found.rest} == {"encoder.ln", "heads.head"}
    assert {stage.resolution for stage in found.stages} == {(197,)}


class Stack(nn.Module):
    """An embedding and `depth` equal blocks."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.unused = nn.Parameter(torch.zeros(3))
        self.late = nn.Parameter(torch.zeros(1, 1, 8))
        self.embed = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x) + self.token
        for block in self.blocks:
            x = block(x)
        return x * self.late


def test_bare_parameters_go_where_they_are_first_read() -> None:
    found = ran(Stack(4), 1, 5, 4)
    assert found.stages[0].parameters == ("token", "unused", "embed.weight", "embed.bias")
    assert found.rest == ("late",)


@pytest.mark.parametrize(("depth", "sizes"), [(4, [1, 1, 1, 1]), (6, [2, 2, 1, 1]), (11, [3, 3, 3, 2])])
def test_the_first_groups_take_the_remainder(depth: int, sizes: list[int]) -> None:
    assert [len(stage.modules) for stage in ran(Stack(depth), 1, 5, 4).stages[1:]] == sizes


def test_three_blocks_are_no_backbone() -> None:
    with pytest.raises(InspectError, match="no stages found in Stack"):
        ran(Stack(3), 1, 5, 4)


# timm.


def test_timm_swin_has_the_patches_and_four_layers() -> None:
    pytest.importorskip("timm")
    found = backbone("timm:swin_tiny_patch4_window7_224")
    assert [stage.modules for stage in found.stages] == [
        ("patch_embed",), *((f"layers.{i}",) for i in range(4))
    ]  # fmt: skip
    assert [stage.resolution for stage in found.stages] == [(s, s) for s in (56, 56, 28, 14, 7)]
    assert {name.split(".")[0] for name in found.rest} == {"norm", "head"}


def test_an_absolute_position_embedding_is_in_the_stem() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("beit_base_patch16_224", depth=4, use_abs_pos_emb=True)
    found = ran(model, 1, 3, 224, 224)
    assert {"cls_token", "pos_embed"} <= set(found.stages[0].parameters)


def test_timm_convnext_has_torchvisions_stages() -> None:
    pytest.importorskip("timm")
    mine, theirs = "timm:convnext_tiny", "convnext_tiny"
    assert backbone(mine).stages[0].modules == ("stem",)
    counts = [numel(mine, stage.parameters) for stage in backbone(mine).stages]
    assert counts == [numel(theirs, stage.parameters) for stage in backbone(theirs).stages]


def test_timm_efficientnet_has_the_stem_and_seven_stages() -> None:
    pytest.importorskip("timm")
    found = backbone("timm:efficientnet_b0")
    assert found.stages[0].modules == ("conv_stem", "bn1")
    mine = [numel("timm:efficientnet_b0", stage.parameters) for stage in found.stages]
    published = backbone("efficientnet_b0").stages[:-1]
    assert mine == [numel("efficientnet_b0", stage.parameters) for stage in published]
    assert {name.split(".")[0] for name in found.rest} == {"conv_head", "bn2", "classifier"}


def test_cait_reads_its_class_token_after_the_blocks() -> None:
    pytest.importorskip("timm")
    found = backbone("timm:cait_xxs24_224")
    assert [len(stage.modules) for stage in found.stages[1:]] == [6] * 4
    assert "pos_embed" in found.stages[0].parameters
    assert "cls_token" in found.rest
    assert any(name.startswith("blocks_token_only.") for name in found.rest)


def test_deit_has_both_tokens_in_the_stem() -> None:
    pytest.importorskip("timm")
    found = backbone("timm:deit_tiny_distilled_patch16_224")
    assert {"cls_token", "dist_token", "pos_embed"} <= set(found.stages[0].parameters)
    assert {name.split(".")[0] for name in found.rest} == {"norm", "head", "head_dist"}


def test_a_hybrid_transformer_is_split_by_its_blocks_not_by_its_resnet() -> None:
    pytest.importorskip("timm")
    found = backbone("timm:vit_small_r26_s32_224")
    assert found.stages[0].modules[0] == "patch_embed"
    assert [len(stage.modules) for stage in found.stages[1:]] == [3] * 4


def test_feature_info_ends_stages() -> None:
    pytest.importorskip("timm")
    found = backbone("timm:rexnet_100")
    model: Any = built("timm:rexnet_100")
    ends = [entry["module"] for entry in list(model.feature_info)]
    assert found.rule.startswith("timm feature_info")
    assert [stage.modules[-1] for stage in found.stages][-len(ends) :] == ends


FAMILIES = """
    resnet18 resnetv2_50 convnext_tiny swin_tiny_patch4_window7_224 efficientnet_b0 mobilenetv3_small_100
    densenet121 regnetx_002 regnety_002 inception_v3 inception_v4 nfnet_f0 rexnet_100 ghostnet_100 dla34
    darknet53 cspdarknet53 cspresnet50 dpn68 res2net50_26w_4s resnest14d selecsls42 pvt_v2_b0
    poolformer_s12 davit_tiny edgenext_xx_small efficientvit_b0 efficientvit_m0 focalnet_tiny_srf
    hgnet_tiny levit_128s maxvit_tiny_tf_224 mobilevit_xxs mobileone_s0 repvgg_a0 pit_ti_224 hiera_tiny_224
    ese_vovnet19b_dw xception41
""".split()
# Left out, with the reason:
EXCEPTIONS = {
    "vgg11": "the last pooling stays with the stage that it pools; timm gives it a reduction of its own",
    "tresnet_m": "its first reduction is a space-to-depth without parameters, before the first layer",
    "crossvit_9_240": "two towers of two patch sizes run side by side: they are no sequence",
    "coat_tiny": "parallel blocks go up and down in resolution again",
    "mobilevitv2_050": "its blocks unfold the image to pixels by patches",
    "nest_tiny": "its blocks unfold the image to blocks by pixels",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_resolution_alone_finds_the_reductions_that_timm_publishes(name: str) -> None:
    pytest.importorskip("timm")
    recipe = resolve(f"timm:{name}")
    model: Any = built(f"timm:{name}")
    info = getattr(model.feature_info, "info", model.feature_info)
    walk = Walk(model, traced(f"timm:{name}"))
    cuts = by_resolution(walk)
    assert cuts is not None
    inputs = recipe.defaults(model, "forward")
    assert inputs is not None
    side = inputs.args[0].shape[-1]
    # Convolutions without padding leave a little less than the power of two, hence the rounding.
    sizes = [stage.resolution for stage in partition(walk, cuts).stages]
    steps = {round(log2(side / prod(size) ** 0.5)) for size in sizes if size is not None}
    assert {round(log2(entry["reduction"])) for entry in info} <= steps


# transformers.


def hugging_face(folder: Path, **config: Any) -> tuple[nn.Module, Backbone]:
    pytest.importorskip("transformers")
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    recipe = resolve(f"hf:{file}")
    model = recipe.build("meta")
    found = find_stages(model, trace(recipe))
    assert_partition(model, found)
    return model, found


def test_bert_has_embeddings_then_groups_and_its_head_in_no_stage(tmp_path: Path) -> None:
    _, found = hugging_face(
        tmp_path, model_type="bert", num_hidden_layers=6, hidden_size=16, intermediate_size=24,
        num_attention_heads=2, vocab_size=50, max_position_embeddings=32,
    )  # fmt: skip
    assert all("embeddings." in name for name in found.stages[0].parameters)
    assert [len(stage.modules) for stage in found.stages[1:]] == [2, 2, 1, 1]
    assert all(".encoder." not in name for name in found.rest)


@pytest.mark.parametrize(
    ("config", "embedding"),
    [
        ({"model_type": "gpt2", "n_layer": 4, "n_embd": 16, "n_head": 2, "n_positions": 32}, "wte"),
        (
            {
                "model_type": "llama", "num_hidden_layers": 4, "hidden_size": 16, "intermediate_size": 24,
                "num_attention_heads": 2, "max_position_embeddings": 32, "tie_word_embeddings": True,
            },
            "embed_tokens",
        ),
    ],
)  # fmt: skip
def test_a_tied_head_has_each_name_where_it_runs(
    tmp_path: Path, config: dict[str, Any], embedding: str
) -> None:
    _, found = hugging_face(tmp_path, vocab_size=50, **config)
    assert any(name.endswith(f"{embedding}.weight") for name in found.stages[0].parameters)
    assert "lm_head.weight" in found.rest
    assert [len(stage.modules) for stage in found.stages[1:]] == [1] * 4


# Every parameter has one place.


def classification() -> list[str]:
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if "_" not in name or not name.startswith("quantized")]


@pytest.mark.parametrize("spec", classification())
def test_every_parameter_of_torchvision_has_exactly_one_place(spec: str) -> None:
    found = backbone(spec)
    assert_partition(built(spec), found)
    areas = [prod(stage.resolution) for stage in found.stages if stage.resolution]
    assert len(areas) == len(found.stages)
    assert all(before * 1.1 >= after for before, after in pairwise(areas))  # 1.1: a class token


def test_one_module_under_two_names_has_both_of_them_in_one_place() -> None:
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), block, nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), block)
    found = ran(model, 1, 3, 32, 32)
    assert_partition(model, found)
    assert {"1.0.weight", "4.0.weight"} <= set(found.stages[0].parameters)


def test_nothing_of_the_model_changes() -> None:
    model = torchvision.models.resnet18()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report_of(model, torch.zeros(1, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


# The user's own map.


def test_a_given_map_is_taken_as_it_is() -> None:
    found = find_stages(built("resnet50"), None, [["conv1", "bn1"], ["layer1", "layer2.*"]])
    assert found.rule == "your map"
    assert [stage.modules for stage in found.stages] == [("conv1", "bn1"), ("layer1", "layer2")]
    assert {name.split(".")[0] for name in found.rest} == {"layer3", "layer4", "fc"}
    assert_partition(built("resnet50"), found)


def test_a_map_may_name_bare_parameters() -> None:
    found = find_stages(Stack(4), None, [["token", "embed"], ["blocks.0", "late"]])
    assert found.stages[0].parameters == ("token", "embed.weight", "embed.bias")
    assert found.stages[1].parameters == ("late", "blocks.0.0.weight", "blocks.0.0.bias")


def test_a_glob_without_a_match_names_the_option_and_the_nearest() -> None:
    with pytest.raises(InspectError, match=r"`stages=` 'layr1' matches no module") as caught:
        find_stages(built("resnet50"), None, [["conv1"], ["layr1"]])
    assert "layer1" in str(caught.value.hint)


@pytest.mark.parametrize("second", ["layer1", "layer1.0", "layer1.0.relu", "layer1.0.conv1.weight", "*relu"])
def test_a_name_in_two_stages_is_refused(second: str) -> None:
    with pytest.raises(InspectError, match="in stage 0 and in stage 1"):
        find_stages(built("resnet50"), None, [["conv1", "layer1"], [second]])


# Where nothing can be found.


def test_names_suffice_without_a_forward_and_no_resolution_is_claimed() -> None:
    found = find_stages(built("resnet50"))
    assert [stage.parameters for stage in found.stages] == [
        stage.parameters for stage in backbone("resnet50").stages
    ]
    assert {stage.resolution for stage in found.stages} == {None}


def test_a_live_model_without_inputs_says_what_to_give() -> None:
    with pytest.raises(InspectError, match="cannot find the stages of VGG without running it") as caught:
        report_of(torchvision.models.vgg11())
    assert "`stages=`" in str(caught.value.hint)


def test_where_the_pass_runs_on_another_device_the_model_is_built_there(tmp_path: Path) -> None:
    """Nested inputs run on the CPU, and so does what asks for values; what is listed was built on meta."""
    file = tmp_path / "nested.py"
    file.write_text(
        "from torch import nn\n"
        "class Asks(nn.Linear):\n"
        "    def forward(self, x): return super().forward(x if float(x.sum()) == 0 else -x)\n"
        "def build(): return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))\n"
        "def asks(): return nn.Sequential(Asks(4, 5), nn.Linear(5, 6))\n"
    )
    nested = torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)], layout=torch.jagged)
    for name, inputs in (("build", nested), ("asks", torch.zeros(2, 4))):
        report = report_of(f"{file}:{name}", inputs, stages=[["0"], ["1"]])
        assert report.subject["device"] == "cpu"
        assert report.to_frame("stages")["params"].tolist() == [4 * 5 + 5, 5 * 6 + 6]


def test_a_plain_mlp_has_no_stages() -> None:
    mlp = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(InspectError, match="no stages found in Sequential") as caught:
        ran(mlp, 4, 8)
    assert "`stages=`" in str(caught.value.hint)
