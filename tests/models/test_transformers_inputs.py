"""Default inputs of transformers models: from the class and the configuration, values counted by hand.

In every tiny model here a layer of n tokens, 8 wide, with 2 heads and a hidden layer of 16, has
    4 n 8x8 (query, key, value, output) + 2 n n 8 (scores and their use) + 2 n 8x16 multiply-accumulates.
"""

from __future__ import annotations

from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

import inspector  # noqa: E402
from inspector.core.errors import InspectError  # noqa: E402
from inspector.models.huggingface import from_config  # noqa: E402
from inspector.models.inputs import InputSpec, materialise  # noqa: E402

TOKENS = {
    "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 16,
}  # fmt: skip
IMAGE = {
    "image_size": 8, "patch_size": 4, "num_channels": 3, "hidden_size": 8, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
PATCHES = 4 * 3 * 4 * 4 * 8
"""A convolution makes 4 patches of 3x4x4 pixels 8 wide."""


def layer(n: int) -> int:
    return 4 * n * 8 * 8 + 2 * n * n * 8 + 2 * n * 8 * 16


def tiny(architecture: str, **fields: Any) -> Any:
    """The recipe of a class with these fields in its configuration."""
    cls = getattr(transformers, architecture, None)
    if cls is None:
        pytest.skip(f"this transformers has no {architecture}")
    return from_config(cls.config_class(**fields, architectures=[architecture]), architecture)


def inputs(recipe: Any, phase: str = "forward") -> dict[str, tuple[int, ...]]:
    chosen = recipe.inputs(recipe.build("meta"), phase=phase)
    assert not chosen.args
    return {name: spec.shape for name, spec in chosen.kwargs.items()}


def macs(recipe: Any) -> int:
    """On meta, and the same on the CPU; training runs too, on meta or not."""
    meta = inspector.profile(recipe, device="meta").metrics["macs"].value
    assert inspector.profile(recipe, device="cpu").metrics["macs"].value == meta
    train = inspector.profile(recipe, phase="train").metrics
    assert train["forward_macs"].value == meta
    assert train["backward_macs"].value > meta
    return meta


def test_two_towers_get_a_text_and_an_image() -> None:
    recipe = tiny("SiglipModel", text_config={**TOKENS, "max_position_embeddings": 4}, vision_config=IMAGE)
    assert inputs(recipe) == {"input_ids": (1, 4), "pixel_values": (1, 3, 8, 8)}
    # a projection of the last token; a probe that attends to 4 patches, and a hidden layer; 1x8 by 8x1
    text = layer(4) + 8 * 8
    pooled = 8 * 8 + 2 * 4 * 8 * 8 + 2 * 4 * 8 + 8 * 8 + 2 * 8 * 16
    assert macs(recipe) == text + PATCHES + layer(4) + pooled + 8 == 7_176


def llava(**text: Any) -> Any:
    return tiny(
        "LlavaForConditionalGeneration",
        vision_config={"model_type": "clip_vision_model", **IMAGE, "projection_dim": 8},
        text_config={"model_type": "llama", **TOKENS, "num_key_value_heads": 2, **text},
        vision_feature_layer=-1,
        image_token_index=31,
    )


def test_an_image_is_merged_into_the_text_at_as_many_placeholders_as_it_has_features() -> None:
    recipe = llava()
    assert inputs(recipe) == {"input_ids": (1, 16), "pixel_values": (1, 3, 8, 8)}  # 16 positions in all
    # 4 patches and a class token in the tower, 4 features through two projections of 8 to 8; then 16 tokens
    # in a layer with a gate, and a head of 32
    tower, projections = PATCHES + layer(5), 2 * 4 * 8 * 8
    language = layer(16) + 16 * 8 * 16 + 16 * 8 * 32
    assert macs(recipe) == tower + projections + language == 23_440


def test_drawn_tokens_are_neither_placeholders_nor_padding() -> None:
    recipe = llava(max_position_embeddings=512, pad_token_id=3)
    model = recipe.build("cpu")
    ids = materialise(recipe.inputs(model), model, "cpu")[1]["input_ids"]
    assert ids[0, :4].tolist() == [31] * 4
    assert ids.shape == (1, 4 + 128)
    assert not {3, 31} & set(ids[0, 4:].tolist())


def test_a_detector_gets_an_image_and_nothing_else() -> None:
    recipe = tiny(
        "DetrForObjectDetection", d_model=8, encoder_layers=1, decoder_layers=1, num_queries=3,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config={"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 4],
                         "depths": [1, 1], "layer_type": "basic", "out_features": ["stage2"]},
    )  # fmt: skip
    assert inputs(recipe) == {"pixel_values": (1, 3, 224, 224)}
    macs(recipe)


def test_a_speech_model_gets_its_own_number_of_frames() -> None:
    recipe = tiny(
        "WhisperForConditionalGeneration", d_model=8, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        num_mel_bins=4, max_source_positions=8, max_target_positions=6, vocab_size=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=1, decoder_start_token_id=1,
    )  # fmt: skip
    assert inputs(recipe) == {"input_features": (1, 4, 16), "decoder_input_ids": (1, 6)}
    assert inputs(recipe, "train")["labels"] == (1, 6)
    # two convolutions of width 3, the second with a stride of 2
    encoder = 16 * 3 * 4 * 8 + 8 * 3 * 8 * 8 + layer(8)
    cross = 2 * 6 * 8 * 8 + 2 * 8 * 8 * 8 + 2 * 6 * 8 * 8  # 6 queries and outputs, 8 keys and values
    assert macs(recipe) == encoder + layer(6) + cross + 6 * 8 * 32 == 15_936


def test_a_forecast_gets_as_much_past_as_its_lags_reach() -> None:
    recipe = tiny(
        "TimeSeriesTransformerForPrediction", prediction_length=3, context_length=5, lags_sequence=[1, 4],
        num_time_features=2, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
    )  # fmt: skip
    assert inputs(recipe) == {
        "past_values": (1, 5 + 4),
        "past_time_features": (1, 9, 2),
        "past_observed_mask": (1, 9),
        "future_values": (1, 3),
        "future_time_features": (1, 3, 2),
    }
    macs(recipe)


def test_music_gets_a_row_of_tokens_for_each_codebook() -> None:
    decoder = {
        "vocab_size": 32, "hidden_size": 8, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_codebooks": 4, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 0,
    }  # fmt: skip
    recipe = tiny("MusicgenForCausalLM", **decoder)
    assert inputs(recipe) == {"input_ids": (4, 16)}
    assert macs(recipe) == layer(16) + 4 * 16 * 8 * 32  # a head for each codebook


def test_masks_of_an_image_need_no_prompt() -> None:
    recipe = tiny(
        "SamModel",
        vision_config={
            "hidden_size": 8, "output_channels": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 16, "mlp_dim": 16, "num_pos_feats": 4, "window_size": 2,
            "global_attn_indexes": [0],
        },
        prompt_encoder_config={
            "hidden_size": 8, "image_size": 32, "patch_size": 16, "mask_input_channels": 4,
        },
        mask_decoder_config={"hidden_size": 8, "mlp_dim": 16, "num_hidden_layers": 1,
                             "num_attention_heads": 2, "iou_head_hidden_dim": 8},
    )  # fmt: skip
    assert inputs(recipe) == {"pixel_values": (1, 3, 32, 32)}
    macs(recipe)


def test_packed_patches_come_with_their_grid() -> None:
    recipe = tiny(
        "Siglip2VisionModel", hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, patch_size=16, num_patches=4, vision_use_head=False,
    )  # fmt: skip
    shapes = inputs(recipe)
    assert shapes["pixel_values"] == (1, 14 * 14, 3 * 16 * 16)  # an image of 224 x 224
    assert shapes["spatial_shapes"] == (1, 2)


@pytest.mark.parametrize(
    ("architecture", "labels"),
    [
        ("BertForSequenceClassification", {"labels": (1,)}),
        ("BertForTokenClassification", {"labels": (1, 16)}),
        ("BertForMaskedLM", {"labels": (1, 16)}),
        ("BertForQuestionAnswering", {"start_positions": (1,), "end_positions": (1,)}),
        ("BertForMultipleChoice", {"labels": (1,)}),
        ("BertModel", {}),
    ],
)
def test_labels_fit_the_task_and_come_in_training_only(architecture: str, labels: Any) -> None:
    recipe = tiny(architecture, **TOKENS)
    forward, train = inputs(recipe), inputs(recipe, "train")
    assert {name: shape for name, shape in train.items() if name not in forward} == labels
    assert forward["input_ids"] == ((1, 2, 16) if "Choice" in architecture else (1, 16))
    macs(recipe)


def test_a_classifier_that_looks_for_the_end_of_the_text_finds_it() -> None:
    recipe = tiny(
        "BartForSequenceClassification", d_model=8, encoder_layers=1, decoder_layers=1, vocab_size=32,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_position_embeddings=16,
    )  # fmt: skip
    report = inspector.profile(recipe)
    assert report.subject["device"] == "meta"
    assert report.metrics["unknown_ops"].value == 0


@pytest.mark.once
def test_a_forward_that_demands_what_nothing_describes_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = tiny("BertModel", **TOKENS)
    monkeypatch.setattr(transformers.BertModel, "forward", lambda self, gaze: gaze)
    with pytest.raises(InspectError) as caught:
        inspector.profile(recipe)
    assert "`gaze`" in caught.value.message
    assert "gaze=1x16x8" in (caught.value.hint or "")


@pytest.mark.once
def test_what_is_demanded_and_no_tensor_is_passed_as_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, session: InputSpec) -> None: ...

    recipe = tiny("BertModel", **TOKENS)
    monkeypatch.setattr(transformers.BertModel, "forward", forward)
    with pytest.raises(InspectError) as caught:
        inspector.profile(recipe)
    assert "`session`" in caught.value.message
    assert "`inputs={'session': ...}`" in (caught.value.hint or "")


@pytest.mark.once
def test_inputs_are_chosen_once_for_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    from inspector.models import transformers_inputs

    recipe, tried = tiny("BertModel", **TOKENS), []
    run = transformers_inputs.Trial.run
    monkeypatch.setattr(transformers_inputs.Trial, "run", lambda *args: tried.append(1) or run(*args))
    first = recipe.inputs(recipe.build("meta"))
    assert recipe.inputs(recipe.build("meta")) == first
    assert len(tried) == 1
    assert isinstance(first.kwargs["input_ids"], InputSpec)
