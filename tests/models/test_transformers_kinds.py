"""Default inputs of the rarer kinds: patches in rows, regions, examples, codecs, speech to go on from."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

import inspector  # noqa: E402
from inspector.models.small import with_batch  # noqa: E402
from inspector.models.transformers_companions import DEMANDED  # noqa: E402
from inspector.models.transformers_images import image_sizes, processed_size  # noqa: E402
from inspector.models.transformers_rules import Asked  # noqa: E402
from tests.models.test_transformers_inputs import TOKENS, inputs, layer, macs, tiny  # noqa: E402


def test_patches_without_a_grid_come_flat_in_a_row() -> None:
    text = {**TOKENS, "model_type": "persimmon", "max_position_embeddings": 64}
    recipe = tiny("FuyuForCausalLM", image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1,
                  num_attention_heads=2, intermediate_size=16, vocab_size=32, max_position_embeddings=64,
                  image_token_id=31, text_config=text)  # fmt: skip
    chosen = inputs(recipe)
    if "pixel_values" not in chosen:
        pytest.skip("this transformers lets the caller of fuyu merge the patches")
    assert chosen == {"input_ids": (1, 64), "pixel_values": (1, 4, 3 * 4 * 4)}
    # 4 patches of 48 values made 8 wide, a layer of 64 tokens, and a head of 32
    assert macs(recipe) == 4 * 48 * 8 + layer(64) + 64 * 8 * 32


def test_regions_come_with_their_features_and_places() -> None:
    recipe = tiny("LxmertModel", vocab_size=32, hidden_size=8, num_attention_heads=2, intermediate_size=16,
                  l_layers=1, x_layers=1, r_layers=1, visual_feat_dim=6, visual_pos_dim=4,
                  max_position_embeddings=16)  # fmt: skip
    chosen = inputs(recipe)
    assert chosen["visual_feats"] == (1, 36, 6)
    assert chosen["visual_pos"] == (1, 36, 4)
    macs(recipe)


def test_an_example_and_its_mask_are_as_large_as_the_image() -> None:
    recipe = tiny("SegGptModel", hidden_size=8, num_hidden_layers=1, num_attention_heads=2, mlp_dim=16,
                  image_size=[32, 16], patch_size=8, intermediate_hidden_state_indices=[0],
                  pretrain_image_size=16, decoder_hidden_size=4, merge_index=0)  # fmt: skip
    shape = (1, 3, 16, 16)  # one above the other they are 32 x 16
    assert inputs(recipe) == {"pixel_values": shape, "prompt_pixel_values": shape, "prompt_masks": shape}


def test_a_bare_encoder_and_decoder_of_speech_get_states() -> None:
    sizes = {
        "hidden_size": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_mel_bins": 4,
        "conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2, "speech_decoder_prenet_units": 8,
    }  # fmt: skip
    states = (1, 128, 8)
    assert inputs(tiny("SpeechT5Model", **sizes)) == {"input_values": states, "decoder_input_values": states}
    assert inputs(tiny("SpeechT5ForSpeechToSpeech", **sizes))["decoder_input_values"] == (1, 128, 4)


def test_a_query_former_gets_queries_and_what_they_attend_to() -> None:
    recipe = tiny("Blip2QFormerModel", hidden_size=8, num_attention_heads=2, num_hidden_layers=1,
                  intermediate_size=16, encoder_hidden_size=6)  # fmt: skip
    chosen = inputs(recipe)
    assert chosen["query_embeds"] == (1, 32, 8)
    assert chosen["encoder_hidden_states"] == (1, 128, 6)
    # queries attend to each other and to 128 states; a hidden layer of their own
    cross = 2 * 32 * 8 * 8 + 2 * 128 * 6 * 8 + 2 * 32 * 128 * 8
    assert macs(recipe) == layer(32) + cross


@pytest.mark.once
def test_the_size_of_an_image_is_looked_for_in_the_backbone_too() -> None:
    config = transformers.Sam2VisionConfig(backbone_config={"model_type": "sam2_hiera_det_model"})
    assert image_sizes(config, config)[0] == (1024, 1024)
    assert image_sizes(transformers.BertConfig())[0] == (224, 224)


def packed() -> Any:
    text = {**TOKENS, "num_key_value_heads": 2, "max_position_embeddings": 128, "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 0],
    }}  # fmt: skip
    vision = {
        "depth": 1, "embed_dim": 8, "hidden_size": 8, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
    }  # fmt: skip
    return tiny(
        "Qwen2VLForConditionalGeneration", text_config=text, vision_config=vision, image_token_id=31,
        video_token_id=30, vision_start_token_id=29, vision_end_token_id=28,
    )  # fmt: skip


def test_two_samples_of_packed_patches_cost_twice_as_much() -> None:
    recipe = packed()
    model = recipe.build("meta")
    one = recipe.inputs(model)
    # 224 / 14 = 16 patches a side, two frames of 3x14x14 each; 2x2 of them make one token
    assert one.kwargs["pixel_values"].shape == (256, 2 * 3 * 14 * 14)
    two = with_batch(one, 2)
    assert two.kwargs["pixel_values"].shape == (512, 2 * 3 * 14 * 14)
    counts = [inspector.profile(recipe, inputs=each).metrics["macs"].value for each in (one, two)]
    assert counts[1] == 2 * counts[0]


def test_a_text_beside_its_sounds_has_a_column_for_each_codebook() -> None:
    recipe = tiny(
        "KyutaiSpeechToTextModel", vocab_size=32, codebook_vocab_size=16, num_codebooks=3, hidden_size=8,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=4, ffn_dim=32,
        max_position_embeddings=16, sliding_window=16, audio_pad_token_id=15, audio_bos_token_id=14,
        pad_token_id=3, bos_token_id=14,
    )  # fmt: skip
    assert inputs(recipe) == {"input_ids": (1, 16, 3 + 1)}
    macs(recipe)


def test_a_text_beside_its_sounds_is_trained_on_the_text_alone() -> None:
    recipe = tiny(
        "KyutaiSpeechToTextForConditionalGeneration", vocab_size=32, codebook_vocab_size=16, num_codebooks=3,
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=4,
        ffn_dim=32, max_position_embeddings=16, sliding_window=16, audio_pad_token_id=15,
        audio_bos_token_id=14, pad_token_id=3, bos_token_id=14,
    )  # fmt: skip
    assert inputs(recipe, "train") == {"input_ids": (1, 16, 3 + 1), "labels": (1, 16)}
    macs(recipe)


def test_a_text_is_as_long_as_the_positions_that_a_decoder_lays_out_beforehand() -> None:
    recipe = tiny("PerceiverForMaskedLM", num_latents=2, d_latents=8, d_model=8, num_blocks=1,
                  num_self_attends_per_block=1, num_self_attention_heads=2, num_cross_attention_heads=2,
                  vocab_size=32, max_position_embeddings=160)  # fmt: skip
    assert inputs(recipe) == {"input_ids": (1, 128)}
    # a decoded vector for each of the 160 positions, and as many labels are wanted
    assert inputs(recipe, "train") == {"input_ids": (1, 160), "labels": (1, 160)}


def test_a_choice_stays_one_where_training_reads_values_that_meta_has_not() -> None:
    """I-BERT's quantised activations compare ranges while they train: meta stops there, the CPU does not."""
    recipe = tiny("IBertForMultipleChoice", **TOKENS)
    assert inputs(recipe, "train") == {"input_ids": (1, 2, 16), "labels": (1,)}


@pytest.mark.once
def test_a_forward_that_inverts_its_mask_gets_one_of_bools(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, input_ids: Any, attention_mask: Any) -> Any:
        return self.embeddings(input_ids).masked_fill(~attention_mask[..., None], 0.0)

    recipe = tiny("BertModel", **TOKENS)
    monkeypatch.setattr(transformers.BertModel, "forward", forward)
    mask = recipe.inputs(recipe.build("meta")).kwargs["attention_mask"]
    # inverted integers (~1 is -2) are no mask: torch fills under bools alone
    assert (mask.shape, mask.dtype) == ((1, 16), torch.bool)


def test_patches_in_films_come_one_by_one_and_their_channels_last() -> None:
    pytest.importorskip("transformers", minversion="5.24")  # earlier ones know other patches
    recipe = tiny("InklingVisionModel", patch_size=4, temporal_patch_size=2, num_channels=3, hidden_size=8,
                  num_hidden_layers=2, text_hidden_size=8)  # fmt: skip
    assert inputs(recipe) == {"pixel_values": (56 * 56, 2, 4, 4, 3)}  # of an image of 224 x 224


def test_sounds_that_are_added_to_the_text_are_as_many_as_its_tokens() -> None:
    audio = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "num_mel_bins": 4, "head_dim": 4, "max_position_embeddings": 64, "num_key_value_heads": 2,
    }  # fmt: skip
    text = {**TOKENS, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 1024}
    recipe = tiny("VoxtralRealtimeModel", audio_config=audio, text_config=text, downsample_factor=4)
    # 3000 frames; a convolution halves them, four of those are joined into one
    assert inputs(recipe) == {"input_ids": (1, 375), "input_features": (1, 4, 3000)}


def test_a_method_that_only_hands_on_what_it_gets_is_passed_by() -> None:
    audio = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "num_mel_bins": 4, "head_dim": 4,
    }  # fmt: skip
    text = {**TOKENS, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 1024}
    recipe = tiny("VoxtralForConditionalGeneration", audio_config=audio, text_config=text, audio_token_id=31)
    # 3000 frames; a convolution halves them, 32 / 8 of those are joined into one; 128 tokens of text
    assert inputs(recipe) == {"input_ids": (1, 3000 // 2 // 4 + 128), "input_features": (1, 4, 3000)}


def test_a_text_under_another_name_than_the_main_input() -> None:
    recipe = tiny("PerceiverForSequenceClassification", num_latents=2, d_latents=8, d_model=8, num_blocks=1,
                  num_self_attends_per_block=1, num_self_attention_heads=2, num_cross_attention_heads=2,
                  vocab_size=32, max_position_embeddings=16)  # fmt: skip
    assert inputs(recipe) == {"input_ids": (1, 16)}


@pytest.mark.once
def test_an_image_is_as_large_as_its_processor_makes_it() -> None:
    """The heights and widths are published with PP-OCR; what scales the shorter side alone says no size."""
    if not hasattr(transformers, "PPOCRV5ServerRecConfig"):
        pytest.skip("this transformers has no PP-OCR")
    assert processed_size(transformers.PPOCRV5ServerRecConfig()) == (48, 320)
    assert processed_size(transformers.ResNetConfig()) is None
    assert processed_size(transformers.BertConfig()) is None


def test_the_state_of_a_robot_is_as_wide_as_the_configuration_says() -> None:
    class Arm(nn.Module):
        config = types.SimpleNamespace(max_state_dim=6)

        def forward(self, state: Any) -> Any:
            return state

    assert DEMANDED["state"](Asked(Arm()), {}).shape == (1, 6)
