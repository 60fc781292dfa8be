"""Parts of diffusers pipelines from their configuration: UNets, transformers, autoencoders. No weights."""

from __future__ import annotations

import inspect as introspection
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from inspector.core.errors import InspectError, first_line
from inspector.core.naming import nearest
from inspector.models.configuration import Configuration
from inspector.models.inputs import Inputs, InputSpec
from inspector.models.subject import Recipe

Way = dict[str, Any]


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise InspectError(
            "diffusers is not installed", "install it with: pip install 'torch-inspector[diffusers]'"
        ) from error
    return diffusers


def recipe(source: Configuration, model_args: Mapping[str, Any]) -> Recipe:
    """The model whose class the configuration's `_class_name` names. Raises InspectError."""
    diffusers = _diffusers()
    name = source.content["_class_name"]
    cls: Any = getattr(diffusers, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not _is_model(cls, diffusers.ModelMixin):
        models = [name for name in dir(diffusers) if name.endswith(("Model", "ModelMixin", "KL"))]
        raise InspectError(
            f"{source.label}: diffusers {diffusers.__version__} has no model {name!r}",
            nearest(str(name), models, "check the file's _class_name"),
        )
    fields = introspection.signature(cls).parameters
    if unknown := [key for key in model_args if key not in fields]:
        raise InspectError(f"{name} has no field {unknown[0]!r}", nearest(unknown[0], fields))
    content = {**source.content, **model_args}

    def construct() -> nn.Module:
        try:
            return cls.from_config(content)  # type: ignore[no-any-return]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            message = f"{source.label}: {first_line(error)[:160]}"
            raise InspectError(message, "check the fields of the configuration") from error

    return Recipe(
        name=source.name,
        source="diffusers",
        construct=construct,
        defaults=lambda model, phase: _inputs(model),
    )


def _is_model(cls: Any, base: type) -> bool:
    return isinstance(cls, type) and issubclass(cls, base)


# What the models are called with, at the size that their configuration or their pipeline names.


def _inputs(model: Any) -> Inputs | None:
    """The inputs of one image; None where nothing here says what the class takes."""
    way = _WAYS.get(type(model).__name__)
    return Inputs((), way(model.config)) if way is not None else None


def _latents(config: Any, size: int = 64) -> InputSpec:
    """What is denoised: `in_channels` and `sample_size`, a number or two."""
    chosen = config.get("sample_size") or size
    height, width = (chosen, chosen) if isinstance(chosen, int) else chosen
    return InputSpec((1, config["in_channels"], height, width))


_STEP = InputSpec((1,), torch.int64, below=1000)
"""One of the 1000 steps on which the schedulers of diffusers train."""
CLIP_TOKENS, SD3_TOKENS, FLUX_TOKENS, PIXART_TOKENS = 77, 77 + 256, 512, 120
"""Tokens of a prompt in the pipelines: CLIP's; CLIP's and T5's; T5's `max_sequence_length` of each."""


def _unet(config: Any) -> Way:
    return {"sample": _latents(config), "timestep": _STEP}


def _text_unet(config: Any) -> Way:
    """With a prompt; SDXL's also with its pooled embedding and six numbers of sizes and crops."""
    width = config["cross_attention_dim"]
    width = width if isinstance(width, int) else width[0]
    width = config.get("encoder_hid_dim") or width
    way = {**_unet(config), "encoder_hidden_states": InputSpec((1, CLIP_TOKENS, width))}
    if config.get("addition_embed_type") == "text_time":
        sizes = 6
        pooled = config["projection_class_embeddings_input_dim"] - sizes * config["addition_time_embed_dim"]
        way["added_cond_kwargs"] = {
            "text_embeds": InputSpec((1, pooled)),
            "time_ids": InputSpec((1, sizes)),
        }
    return way


def _autoencoder(config: Any) -> Way:
    return {"sample": _latents(config, 256)}


def _sd3(config: Any) -> Way:
    return {
        "hidden_states": _latents(config),
        "encoder_hidden_states": InputSpec((1, SD3_TOKENS, config["joint_attention_dim"])),
        "pooled_projections": InputSpec((1, config["pooled_projection_dim"])),
        "timestep": _STEP,
    }


def _flux(config: Any) -> Way:
    """An image of 1024 x 1024: 128 x 128 latents in patches of 2 x 2."""
    tokens, axes = (128 // 2) ** 2, len(config["axes_dims_rope"])
    way = {
        "hidden_states": InputSpec((1, tokens, config["in_channels"])),
        "encoder_hidden_states": InputSpec((1, FLUX_TOKENS, config["joint_attention_dim"])),
        "pooled_projections": InputSpec((1, config["pooled_projection_dim"])),
        "timestep": InputSpec((1,)),
        "img_ids": InputSpec((tokens, axes)),
        "txt_ids": InputSpec((FLUX_TOKENS, axes)),
    }
    return {**way, "guidance": InputSpec((1,))} if config.get("guidance_embeds") else way


def _dit(config: Any) -> Way:
    classes = InputSpec((1,), torch.int64, below=config["num_embeds_ada_norm"])
    return {"hidden_states": _latents(config, 32), "timestep": _STEP, "class_labels": classes}


def _pixart(config: Any) -> Way:
    way: Way = {
        "hidden_states": _latents(config, 128),
        "encoder_hidden_states": InputSpec((1, PIXART_TOKENS, config["caption_channels"])),
        "timestep": _STEP,
    }
    if config.get("use_additional_conditions") or config.get("sample_size") == 128:
        way["added_cond_kwargs"] = {"resolution": InputSpec((1, 2)), "aspect_ratio": InputSpec((1, 1))}
    return way


_WAYS: dict[str, Callable[[Any], Way]] = {
    "UNet2DModel": _unet,
    "UNet2DConditionModel": _text_unet,
    **dict.fromkeys(("AutoencoderKL", "AutoencoderTiny", "VQModel", "AsymmetricAutoencoderKL"), _autoencoder),
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
    "DiTTransformer2DModel": _dit,
    "PixArtTransformer2DModel": _pixart,
}
