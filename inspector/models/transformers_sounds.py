"""In which ways a transformers model can be given sounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from inspector.models.inputs import InputSpec
from inspector.models.transformers_rules import Asked, Way, number, ones, part

AUDIO_FRAMES = 3000
AUDIO_SAMPLES = 16000
_BINS = (
    "input_size", "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "feature_size",
    "n_mels", "mel_bins", "input_dim", "num_mel_channels", "input_feat_size",
)  # fmt: skip


_SOUNDS = ("input_features", "input_values", "audio_values", "audio_mel", "input_audio_embeds", "spectrogram")


_FRAME_MASKS = ("input_features_mask", "feature_attention_mask")


def sounds(asked: Asked) -> Iterator[Way]:
    """Features by frame in three layouts, or samples with or without a channel; frames of speech to go on
    from, for a decoder that takes them."""
    config = part(
        asked.config,
        "audio_config",
        "audio_encoder",
        "speech_config",
        "encoder_config",
        "semantic_model_config",
        "semantic_config",
        "encoder",
    )
    config = config or asked.config
    known = part(asked.config, "audio_config", "speech_config") is not None
    known = known or asked.takes("inputs", "input_values", "input_features")  # one of three names
    name = next((n for n in _SOUNDS if asked.takes(n) and (n in asked.main or known)), None)
    if name is None:
        if asked.takes("decoder_input_values"):
            yield _spoken(asked)
        return
    layouts = [*_features(config), *_samples(config)]
    if name == "input_values":
        layouts = [*_samples(config), *_features(config)]
    for shape, time in layouts:
        masks = {n: ones(1, time) for n in (*_FRAME_MASKS, *(["padding_mask"] if known else []))}
        masks["audio_mel_mask"] = ones(1, time, dtype=torch.bool)
        lengths = {"feature_lens": InputSpec((1,), torch.int64, runs=((time, 1),))}
        sound = {name: InputSpec(shape, asked.dtype), **_spoken(asked)}
        yield asked.fits({**sound, **masks, **lengths})
    for shape, _ in _samples(config) if asked.takes("padding_mask") else ():
        yield {name: InputSpec(shape, asked.dtype)}
    hidden = number(config, "hidden_size", default=0)
    if asked.takes("decoder_input_values") and hidden:  # without the networks before the encoder and decoder
        states = InputSpec((1, asked.length, hidden), asked.dtype)
        yield {name: states, "decoder_input_values": states}


def _spoken(asked: Asked) -> Way:
    width = number(asked.config, "num_mel_bins", default=80)
    return asked.fits({"decoder_input_values": InputSpec((1, asked.length, width), asked.dtype)})


Layout = tuple[tuple[int, ...], int]
"""A shape, and how many frames or samples are in it."""


def _features(config: Any) -> list[Layout]:
    widths = [number(config, field, default=0) for field in _BINS]
    bins, *others = list(dict.fromkeys(width for width in widths if width)) or [80, 128]
    frames = number(config, "max_source_positions", default=0) * 2 or AUDIO_FRAMES
    frames = min(frames, AUDIO_FRAMES) // number(config, "num_stacked_frames", default=1)
    longest = number(config, "max_length", "spec_size", default=1000)
    layouts: list[Layout] = [((1, bins, frames), frames), ((1, frames, bins), frames)]
    layouts += [((1, longest, bins), longest), ((1, 1, longest, bins), longest)]
    layouts += [((1, longest, other), longest) for other in others]
    return [*layouts, ((1, frames // 4, 4 * bins), frames // 4)]  # the last: four frames in one


def _samples(config: Any) -> list[Layout]:
    channels = number(config, "audio_channels", "num_channels", default=1)
    short = AUDIO_SAMPLES
    framed = 10 * 1920  # 1920 samples at 24 kHz are the 80 ms of a frame of speech codecs
    lengths: list[Layout] = [((1, 10 * short), 10 * short), ((1, framed), framed)]
    return [((1, short), short), ((1, channels, short), short), *lengths]
