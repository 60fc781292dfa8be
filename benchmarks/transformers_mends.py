"""Default configurations of transformers that contradict themselves, the fields that make them agree, and why
a class cannot be swept.

Without these, transformers alone raises too: a part of the model hands the next one a tensor of another
width, or a list of layers names none that it has. A row of the sweep that needed them says which.
"""

from __future__ import annotations

from typing import Any

_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
_AXES = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 16, 16, 16]}
_GRID = "an image makes fewer patches than are joined into one token"
_WIDTH = "the features of an image or a sound are not as wide as the text"
_ROTARY = "`mrope_section` does not add up to the rotary width of a head"
_BACKBONE = "`backbone_channel_list` does not list the channels of the backbone"
_LAYERS = "the layers are all of a kind that keeps no attention cache"
_COUNTED = "how many placeholders it needs is told by values, which meta does not have"
_ADAPTER = "its adapter is not as wide as four patches in one"
_BEYOND = "the placeholder of an image is beyond the vocabulary"
_UNSET = "a field that every model needs has no default"
_LINE = "the backbone makes a line of text, 48 pixels high, too low for the pooling after it"
_STAGES = [
    [[3, 16, 32, 1, False]],
    [[3, 32, 64, 1, False], [3, 64, 64, 1, False]],
    [[3, 64, 128, [2, 1], False], [3, 128, 128, 1, False]],
    [[3, 128, 256, [1, 2], False], *[[5, 256, 256, 1, False]] * 4],
    [
        [5, 256, 512, [2, 1], True], [5, 512, 512, 1, True],
        [5, 512, 512, [2, 1], False], [5, 512, 512, 1, False],
    ],
]  # fmt: skip
"""Of a recogniser, as PaddleOCR lists them (`NET_CONFIG_rec`): their strides lower 48 pixels to 3."""
MENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "aria": (
        _GRID,
        {"vision_config": {"model_type": "idefics3_vision", "image_size": 490, "patch_size": 14}},
    ),
    "bamba": (_LAYERS, {"num_hidden_layers": 2, "attn_layer_indices": [1]}),
    "colmodernvbert": (
        f"{_GRID}; {_BEYOND}",
        {"vlm_config": {"vision_config": {"image_size": 256}, "image_token_id": 5}},
    ),
    "cosmos3_omni": (_WIDTH, {"vision_config": {"out_hidden_size": 4096}}),
    "deepseek_v2": (_UNSET, {"num_experts_per_tok": 2}),
    "esm": (_UNSET, {"vocab_size": 33, "mask_token_id": 4, "pad_token_id": 1}),
    "exaone4_5": (_WIDTH, {"vision_config": {"out_hidden_size": 4096}}),
    "gemma3": (_GRID, {"vision_config": {"image_size": 896, "patch_size": 14}}),
    "glm46v": (_ROTARY, {"text_config": {"rope_parameters": _ROPE}}),
    "glm4v": (_ROTARY, {"text_config": {"rope_parameters": _ROPE}}),
    "glm4v_text": (_ROTARY, {"rope_parameters": _ROPE}),
    "glm4v_moe": (_ROTARY, {"text_config": {"head_dim": 128}}),
    "glm4v_moe_text": (_ROTARY, {"head_dim": 128}),
    "glm5_next": (_WIDTH, {"vision_config": {"out_hidden_size": 4096}}),
    "glm_image_text": (_ROTARY, {"rope_parameters": _ROPE}),
    "glm_ocr": (_WIDTH, {"vision_config": {"out_hidden_size": 1024}}),
    "granitemoehybrid": (
        _LAYERS,
        {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "hunyuan_v1_dense": (_UNSET, {"head_dim": 128}),
    "hunyuan_v1_moe": (_UNSET, {"head_dim": 128}),
    "hunyuan_vl_text": (_UNSET, {"head_dim": 128, "rope_parameters": _AXES}),
    "hunyuan_vl": (_UNSET, {"text_config": {"head_dim": 128, "rope_parameters": _AXES}}),
    "idefics3": (_GRID, {"vision_config": {"image_size": 256}}),
    "janus": (_WIDTH, {"vision_config": {"projection_dim": 4096}}),
    "llama4": (_WIDTH, {"vision_config": {"intermediate_size": 3072, "vision_output_dim": 4096}}),
    "llama4_vision_model": (_ADAPTER, {"intermediate_size": 3072}),
    "lw_detr": (
        _UNSET,
        {
            "projector_scale_factors": [1.0],
            "backbone_config": {"model_type": "lw_detr_vit", "image_size": 1024},
        },
    ),
    "ministral": (_UNSET, {"head_dim": 128}),
    "modernvbert": (f"{_GRID}; {_BEYOND}", {"vision_config": {"image_size": 256}, "image_token_id": 5}),
    "ovis2": (_WIDTH, {"hidden_size": 4096}),
    "pp_ocrv5_mobile_rec": (
        _LINE,
        {"backbone_config": {"model_type": "pp_lcnet_v3", "block_configs": _STAGES}},
    ),
    "qwen2_5_vl": (_WIDTH, {"vision_config": {"out_hidden_size": 8192}}),
    "qwen2_vl": (_WIDTH, {"vision_config": {"hidden_size": 8192}}),
    "qwen3_5_moe": (_WIDTH, {"vision_config": {"out_hidden_size": 2048}}),
    "qwen3_5": (_WIDTH, {"vision_config": {"out_hidden_size": 4096}}),
    "qwen3_asr": (_WIDTH, {"audio_config": {"output_dim": 4096}}),
    "qwen3_omni_moe_thinker": (
        _WIDTH,
        {"vision_config": {"out_hidden_size": 2048}, "audio_config": {"output_dim": 2048}},
    ),
    "qwen3_vl": (_WIDTH, {"vision_config": {"out_hidden_size": 4096}}),
    "qwen3_vl_moe": (_WIDTH, {"vision_config": {"out_hidden_size": 2048}}),
    "qwen4_exp": (_WIDTH, {"vision_config": {"out_hidden_size": 2048}}),
    "rf_detr": (_GRID, {"backbone_config": {"model_type": "rf_detr_dinov2", "image_size": 560}}),
    "shieldgemma2": (_GRID, {"vision_config": {"image_size": 896, "patch_size": 14}}),
    "smolvlm": (_GRID, {"vision_config": {"image_size": 256}}),
    "t5gemma2": (_GRID, {"encoder": {"vision_config": {"image_size": 896, "patch_size": 14}}}),
    "ultravbert": (f"{_GRID}; {_BEYOND}", {"vision_config": {"image_size": 256}, "image_token_id": 5}),
    "xmod": (_UNSET, {"default_language": "en_XX"}),
}
"""By model type: what is contradictory, and what agrees. Nested fields are those of sub-configurations."""

ON_VALUES = ("on meta tensors", "register_meta", "unallocated storage", "permute(sparse_coo)")
"""What torch says where meta cannot go on."""
REASONS = {
    "inference_session": "needs an inference session, which its processor makes of a video",
    "'BltConfig' object has no attribute": "transformers alone raises: its cache reads a missing field",
    "has no forward": "has no forward: one of its methods is called",
    "validate_architecture": "its default configuration is refused by its own validation",
    "requires the": "needs a package that is not installed",
    "no answer within the limit": "takes longer than the sweep allows a class on this machine",
    "not enough memory": "needs more memory than the sweep allows",
    "can't allocate memory": "needs more memory than the sweep allows",
    "All labels must be provided": "training demands durations, pitch and energy, which nothing describes",
    "modified by an inplace operation": "autograd refuses: its forward writes into what the backward needs",
    "question token": "its text must hold a question token, which no configuration places",
    "three separator": "its text must hold three separators, which no configuration places",
    "should have two dimensions": "its text must hold three separators, which no configuration places",
    "nothing says what": "its forward demands an input that nothing describes",
    "is_decoder=True": "transformers alone refuses its default configuration, an encoder",
}
"""What an error holds, and what it means."""
CLASSES: dict[str, str] = {
    "T5Gemma2ForTokenClassification": "it labels the decoder's tokens, our labels are the encoder's",
    "EdgeTamModel": f"its default configuration contradicts itself: {_BACKBONE}",
    "EdgeTamVisionModel": f"its default configuration contradicts itself: {_BACKBONE}",
    "Llama4ForConditionalGeneration": "transformers alone raises too: it reads a field that its output lacks",
    "GlmImageModel": "needs the grid of the image to be made beside that of the image given",
    "PPOCRV6SmallDetModel": f"its default configuration contradicts itself: {_BACKBONE}",
    "PPOCRV6SmallDetForObjectDetection": f"its default configuration contradicts itself: {_BACKBONE}",
    "PPDocLayoutV2ForObjectDetection": "transformers alone raises too: a field has no default",
    "Blip2ForImageTextRetrieval": "no text reaches its query former: `use_qformer_text_input` is off",
    "PI0Model": "needs actions that its other half embeds",
    "ShieldGemma2ForImageClassification": "its labels are tokens, although it is listed as a classifier",
    "Qwen3OmniMoeThinkerForConditionalGeneration": (
        "its default configuration contradicts itself: 28 heads do not divide 2,048"
    ),
    "TimmBackbone": "its default configuration names no backbone",
    "MossTranscribeDiarizeForConditionalGeneration": _COUNTED,
    "MusicFlamingoForConditionalGeneration": _COUNTED,
    "MusicFlamingoModel": _COUNTED,
    "MuseGlimmerAssistantModel": "needs the hidden states of the model that it assists",
    "UVDocModel": "its default configuration contradicts itself: the head is narrower than the backbone",
    "VibeVoiceAcousticTokenizerEncoderModel": "half of a codec: its input depends on the other half",
    "VibeVoiceAcousticTokenizerDecoderModel": "half of a codec: its input depends on the other half",
}
"""Of a class, what is in no error."""


def reason(name: str, row: dict[str, Any]) -> str | None:
    """Why a class has no forward, or no training, in the sweep; None where nobody knows."""
    error = row.get("forward_error") or row.get("train_error") or row.get("error") or ""
    if name in CLASSES:
        return CLASSES[name]
    for words, meaning in REASONS.items():
        if words in error:
            return meaning
    if "plain" in row:
        return "transformers alone builds no model from its default configuration"
    if any(words in error for words in ON_VALUES):
        return "reads values, which meta does not have, and is too large for this machine's CPU"
    return None
