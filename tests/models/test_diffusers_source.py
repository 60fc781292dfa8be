"""Parts of diffusers pipelines: published parameter counts by published dimensions, and default inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

import inspector
from inspector.core.errors import InspectError
from inspector.models import resolve
from tests.small_hub import SmallHub

pytestmark = pytest.mark.once

SD15 = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu",
    "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "in_channels": 4, "out_channels": 4,
    "layers_per_block": 2, "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
"""unet/config.json of Stable Diffusion 1.5."""
SDXL = {
    "_class_name": "UNet2DConditionModel", "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], "in_channels": 4,
    "layers_per_block": 2, "out_channels": 4, "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128, "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}  # fmt: skip
"""unet/config.json of Stable Diffusion XL base 1.0."""
VAE = {
    "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "in_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4, "layers_per_block": 2, "out_channels": 3, "sample_size": 512,
}  # fmt: skip
"""vae/config.json of Stable Diffusion 1.5."""
FLUX = {
    "_class_name": "FluxTransformer2DModel", "attention_head_dim": 128, "guidance_embeds": True,
    "in_channels": 64, "joint_attention_dim": 4096, "num_attention_heads": 24, "num_layers": 19,
    "num_single_layers": 38, "patch_size": 1, "pooled_projection_dim": 768,
}  # fmt: skip
"""transformer/config.json of FLUX.1-dev."""


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    def write(content: Any, part: str = "unet") -> str:
        (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / part / "config.json").write_text(json.dumps(content))
        return f"hf:{tmp_path}/{part}"

    return write


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (SD15, 859_520_964),  # "860M UNet" (CompVis), 3.44 GB of float32
        (SDXL, 2_567_463_684),  # "2.6B" (SDXL, arXiv 2307.01952, table 1), 5.135 GB of float16
        (VAE, 83_653_863),  # 334.6 MB of float32
        (FLUX, 11_901_408_320),  # "12 billion" (Black Forest Labs), 23.80 GB of bfloat16
    ],
    ids=["SD 1.5", "SDXL", "VAE", "FLUX.1"],
)
def test_published_models_have_their_parameters(
    save: Callable[..., str], config: Any, published: int
) -> None:
    built = resolve(save(config)).build("meta")
    assert sum(parameter.numel() for parameter in built.parameters()) == published


SMALL = {
    "sample_size": 8, "block_out_channels": [32, 64], "layers_per_block": 1, "cross_attention_dim": 16,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 8, "norm_num_groups": 8,
}  # fmt: skip
SMALL_TRANSFORMER = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "sample_size": 8}
DEFAULTS = {
    "UNet2DConditionModel": (
        {**SMALL, "in_channels": 4},
        ["sample=float32[1,4,8,8]", "timestep=int64[1]", "encoder_hidden_states=float32[1,77,16]"],
    ),
    "UNet2DModel": (
        {"sample_size": [8, 16], "block_out_channels": [32, 64], "norm_num_groups": 8,
         "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
        ["sample=float32[1,3,8,16]", "timestep=int64[1]"],
    ),
    "AutoencoderKL": (
        {"sample_size": 16, "block_out_channels": [32], "norm_num_groups": 8},
        ["sample=float32[1,3,16,16]"],
    ),
    "SD3Transformer2DModel": (
        {**SMALL_TRANSFORMER, "in_channels": 16, "joint_attention_dim": 24, "pooled_projection_dim": 20,
         "caption_projection_dim": 16, "pos_embed_max_size": 8},
        ["hidden_states=float32[1,16,8,8]", "encoder_hidden_states=float32[1,333,24]",
         "pooled_projections=float32[1,20]", "timestep=int64[1]"],
    ),
    "FluxTransformer2DModel": (
        {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16,
         "in_channels": 4, "joint_attention_dim": 24, "pooled_projection_dim": 20,
         "axes_dims_rope": [4, 6, 6]},
        ["hidden_states=float32[1,4096,4]", "encoder_hidden_states=float32[1,512,24]",
         "pooled_projections=float32[1,20]", "timestep=float32[1]", "img_ids=float32[4096,3]",
         "txt_ids=float32[512,3]"],
    ),
    "DiTTransformer2DModel": (
        {**SMALL_TRANSFORMER, "num_embeds_ada_norm": 10},
        ["hidden_states=float32[1,4,8,8]", "timestep=int64[1]", "class_labels=int64[1]"],
    ),
    "PixArtTransformer2DModel": (
        {**SMALL_TRANSFORMER, "caption_channels": 24, "cross_attention_dim": 16},
        ["hidden_states=float32[1,4,8,8]", "encoder_hidden_states=float32[1,120,24]", "timestep=int64[1]"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_class_runs_with_its_default_input(save: Callable[..., str], name: str) -> None:
    config, inputs = DEFAULTS[name]
    report = inspector.profile(save({"_class_name": name, **config}))
    assert report.subject["inputs"] == inputs
    assert report.subject["source"] == "diffusers"
    assert report.metrics["unknown_ops"].value == 0
    assert report.metrics["macs"].value > 0


def test_sdxl_gets_the_sizes_and_the_pooled_prompt(save: Callable[..., str]) -> None:
    config = {"_class_name": "UNet2DConditionModel", **SMALL, "addition_embed_type": "text_time",
              "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + 20}  # fmt: skip
    inputs = inspector.profile(save(config)).subject["inputs"]
    assert inputs[-1] == "added_cond_kwargs={text_embeds=float32[1,20],time_ids=float32[1,6]}"


def test_the_macs_of_a_small_autoencoder_by_hand(save: Callable[..., str]) -> None:
    # One block of 32 channels at 16 x 16, encoder and decoder alike without down- or upsampling.
    spec = save({"_class_name": "AutoencoderKL", "sample_size": 16, "block_out_channels": [32],
                 "norm_num_groups": 8, "layers_per_block": 1, "latent_channels": 4})  # fmt: skip
    pixels, wide = 16 * 16, 9 * 32 * 32
    residual = 2 * wide
    middle = 2 * residual + 4 * 32 * 32 + 2 * pixels * 32  # two residuals around attention with one head
    encoder = 9 * 3 * 32 + residual + middle + 9 * 32 * 8 + 8 * 8
    decoder = 4 * 4 + 9 * 4 * 32 + middle + 2 * residual + 9 * 32 * 3
    assert inspector.profile(spec).metrics["macs"].value == pixels * (encoder + decoder)


def test_parts_of_a_pipeline_on_the_hub(hub: SmallHub) -> None:
    small = {"_class_name": "UNet2DConditionModel", **SMALL}
    commit = hub.add("org/pipe", {"model_index.json": {}, "unet/config.json": small, "vae/config.json": VAE})
    report = inspector.profile("hf:org/pipe/unet")
    assert report.subject["name"] == f"org/pipe/unet@{commit}"
    assert inspector.profile("hf:org/pipe/unet@main").subject["name"] == report.subject["name"]


def test_its_index_is_held_against_what_is_built(hub: SmallHub) -> None:
    small = {"_class_name": "AutoencoderKL", "block_out_channels": [32], "norm_num_groups": 8}
    index = {"metadata": {"total_size": 7}, "weight_map": {}}
    name = "vae/diffusion_pytorch_model.safetensors.index.json"
    hub.add("org/pipe", {"vae/config.json": small, name: index})
    (finding,) = [f for f in inspector.profile("hf:org/pipe/vae").findings if f.check == "weights"]
    assert finding.status in ("warn", "skip")
    assert hub.asked("GET", name)


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (
            {"_class_name": "UNet2DConditonModel"},
            "has no model 'UNet2DConditonModel'",
            "UNet2DConditionModel",
        ),
        ({"_class_name": "DDIMScheduler"}, "has no model 'DDIMScheduler'", "_class_name"),
        ({"_class_name": "StableDiffusionPipeline"}, "has no model", ""),
        ({"_class_name": "__class__"}, "has no model", ""),
        ({"_class_name": "loaders.x"}, "has no model", ""),
        ({"_class_name": 5}, "has no model 5", ""),
        ({"_class_name": None}, "has no model None", ""),
        ({"_class_name": "UNet2DModel", "block_out_channels": [1, 2]}, "config.json", "check the fields"),
        ({"_class_name": "UNet2DModel", "sample_size": "x", "block_out_channels": "x"}, "", "check"),
    ],
)
def test_a_class_that_is_no_model_is_refused(
    save: Callable[..., str], content: Any, message: str, hint: str
) -> None:
    with pytest.raises(InspectError) as caught:
        resolve(save(content)).build("meta")
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "\n" not in caught.value.message


def test_model_arguments_reach_it_and_misspelt_ones_do_not(save: Callable[..., str]) -> None:
    spec = save({"_class_name": "UNet2DConditionModel", **SMALL})
    wide = resolve(spec, {"in_channels": 9}).build("meta")
    assert wide.conv_in.weight.shape[1] == 9  # type: ignore[union-attr, index]
    with pytest.raises(InspectError, match="has no field 'in_chanels'"):
        resolve(spec, {"in_chanels": 9})


def test_a_pipeline_on_this_machine_names_its_parts(save: Callable[..., str], tmp_path: Path) -> None:
    save(VAE, "vae")
    save(SD15, "unet")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(InspectError) as caught:
        resolve(f"hf:{tmp_path}")
    assert f"hf:{tmp_path}/unet, hf:{tmp_path}/vae" in (caught.value.hint or "")


def test_without_diffusers_the_extra_is_named(save: Callable[..., str], monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(InspectError) as caught:
        resolve(save(VAE))
    assert "pip install 'torch-inspector[diffusers]'" in (caught.value.hint or "")


def test_a_class_without_a_known_input_asks_for_one(save: Callable[..., str]) -> None:
    spec = save({"_class_name": "UNet1DModel", "sample_size": 16})
    with pytest.raises(InspectError, match="has no default input"):
        inspector.profile(spec)
