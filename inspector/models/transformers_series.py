"""In which ways a transformers model can be given time series, or states with actions and rewards."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from inspector.models.inputs import InputSpec
from inspector.models.transformers_rules import Asked, Way, fixed, number, ones


def series(asked: Asked) -> Iterator[Way]:
    """The past of one or several channels; with the features of its times, where the forward has them."""
    if not asked.takes("past_values"):
        return
    config = asked.config
    context = number(config, "context_length", "prediction_length", default=512)
    lags = getattr(config, "lags_sequence", None) or [0]
    length = context + (max(lags) if asked.takes("past_time_features") else 0)
    channels = number(config, "num_input_channels", "input_size", default=1)
    shape = (1, length) if channels == 1 else (1, length, channels)
    way: Way = {"past_values": InputSpec(shape, asked.dtype)}
    times = number(config, "num_time_features", default=0)
    if asked.takes("past_time_features"):
        ahead = number(config, "prediction_length", default=1)
        way["past_time_features"] = InputSpec((1, length, times), asked.dtype)
        way["past_observed_mask"] = ones(*shape, dtype=torch.float32)
        way["future_values"] = InputSpec((1, ahead, *shape[2:]), asked.dtype)
        way["future_time_features"] = InputSpec((1, ahead, times), asked.dtype)
        categories = getattr(config, "cardinality", None) or []
        if getattr(config, "num_static_categorical_features", 0):
            below = min(categories)
            way["static_categorical_features"] = InputSpec((1, len(categories)), torch.int64, below=below)
        real = getattr(config, "num_static_real_features", 0)
        if real:
            way["static_real_features"] = InputSpec((1, real), asked.dtype)
    yield asked.fits(way)
    for other in ((1, length), (1, length, 1)):
        more = {"past_values_padding": ones(1, length), "freq": fixed(0)}
        yield asked.fits({"past_values": InputSpec(other, asked.dtype), **more})


def decisions(asked: Asked) -> Iterator[Way]:
    """States, actions and rewards, one a step."""
    if not asked.takes("states", "actions", "returns_to_go"):
        return
    config, steps = asked.config, asked.length
    yield asked.fits({
        "states": InputSpec((1, steps, number(config, "state_dim", default=1)), asked.dtype),
        "actions": InputSpec((1, steps, number(config, "act_dim", default=1)), asked.dtype),
        "rewards": InputSpec((1, steps, 1), asked.dtype),
        "returns_to_go": InputSpec((1, steps, 1), asked.dtype),
        "timesteps": InputSpec((1, steps), torch.int64, below=number(config, "max_ep_len", default=steps)),
        "attention_mask": ones(1, steps),
    })  # fmt: skip
