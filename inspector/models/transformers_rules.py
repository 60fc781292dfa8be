"""A transformers model as the rules for its default inputs see it, and the rule for text.

A rule looks at the names that the forward takes and at the configuration, never at the name of a class.
"""

from __future__ import annotations

import inspect as introspection
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from inspector.models.inputs import InputSpec

TEXT_LENGTH = 128
Way = dict[str, Any]
"""Inputs by name that belong together."""


@dataclass(frozen=True)
class Asked:
    """A model as its rules see it."""

    model: Any

    @property
    def config(self) -> Any:
        return self.model.config

    @cached_property
    def parameters(self) -> dict[str, bool]:
        """The names that the forward takes, and whether it demands them."""
        every = introspection.signature(type(self.model).forward).parameters.values()
        named = [one for one in every if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        return {one.name: one.default is one.empty for one in named if one.name != "self"}

    def annotation(self, name: str) -> str:
        """What the forward says that an input is; a tensor, where it says nothing."""
        parameter = introspection.signature(type(self.model).forward).parameters[name]
        return "Tensor" if parameter.annotation is parameter.empty else str(parameter.annotation)

    @cached_property
    def demanded(self) -> tuple[str, ...]:
        """What the forward has no default for."""
        return tuple(name for name, demanded in self.parameters.items() if demanded)

    @cached_property
    def main(self) -> tuple[str, ...]:
        """The class's main inputs, and what its forward demands."""
        name = getattr(self.model, "main_input_name", "input_ids")
        return (*(name if isinstance(name, (list, tuple)) else (name,)), *self.demanded)

    @cached_property
    def text(self) -> Any:
        """The configuration of the text part."""
        try:
            return self.config.get_text_config()
        except (AttributeError, ValueError):
            return part(self.config, "text_config", "text_encoder") or self.config

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of images and sounds: that of the weights."""
        floats = (p.dtype for p in self.model.parameters() if p.dtype.is_floating_point and p.dim() > 1)
        return next(floats, torch.float32)

    @cached_property
    def longest(self) -> int:
        """Positions of a text, many where the configuration sets no limit."""
        longest = number(self.text, "max_position_embeddings", "n_positions", default=-1)
        return longest if longest > 0 else 2**40  # some write -1

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return min(TEXT_LENGTH, self.longest)

    def takes(self, *names: str) -> bool:
        return all(name in self.parameters for name in names)

    def fits(self, way: Way) -> Way:
        """What the forward takes of a way."""
        return {name: value for name, value in way.items() if name in self.parameters}


def configurations(config: Any) -> Iterator[Any]:
    """A configuration, then those in it, from the outside in."""
    waiting = [config]
    while waiting:
        config = waiting.pop(0)
        yield config
        waiting += [value for value in vars(config).values() if hasattr(value, "to_dict")]


def part(config: Any, *names: str) -> Any:
    """The first of these sub-configurations, at any depth; None without."""
    for one in configurations(config):
        for name in names:
            if hasattr(getattr(one, name, None), "to_dict"):
                return getattr(one, name)
    return None


def number(config: Any, *names: str, default: int) -> int:
    """The first of these fields that is a whole number; of a pair, its last."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, (list, tuple)) and value and isinstance(value[-1], int):
            return int(value[-1])
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return default


def fixed(*row: int, dtype: torch.dtype = torch.int64) -> InputSpec:
    """One row of these values."""
    return InputSpec((1, len(row)), dtype, runs=tuple((value, 1) for value in row))


def ones(*shape: int, dtype: torch.dtype = torch.int64) -> InputSpec:
    """A mask that leaves everything."""
    return InputSpec(shape, dtype, runs=((1, shape[-1]),))


# Text.


def special(config: Any) -> tuple[int, ...]:
    """Tokens that a drawn text must not hold."""
    fields = (pair for one in configurations(config) for pair in vars(one).items())
    ids = [value for name, value in fields if name.endswith(("_token_id", "_token_index"))]
    flat = [one for value in ids for one in (value if isinstance(value, list) else [value])]
    return tuple(sorted({one for one in flat if isinstance(one, int)}))


def vocabulary(asked: Asked) -> int | None:
    """How many tokens an input may take: what the configuration says and the embedding has."""
    sizes = [number(asked.text, "vocab_size", default=0)]
    try:
        sizes.append(asked.model.get_input_embeddings().weight.shape[0])
    except (AttributeError, NotImplementedError, TypeError):
        pass
    return min((size for size in sizes if size), default=None)


def token_ids(asked: Asked) -> InputSpec:
    return InputSpec((1, asked.length), torch.int64, below=vocabulary(asked))


def listed(task: str) -> set[str]:
    """The names of the classes for a task."""
    from transformers.models.auto import modeling_auto

    every = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {}).values()
    return {name for one in every for name in (one if isinstance(one, (list, tuple)) else (one,))}


def text(asked: Asked) -> Iterator[Way]:
    """Token ids, for the decoder too where the forward names them; several choices for one question."""
    tokens = token_ids(asked)
    way: Way = {}
    if asked.takes("decoder_input_ids") and getattr(asked.config, "is_encoder_decoder", False):
        way["decoder_input_ids"] = decoder_ids(asked)
    foreign = not any(asked.takes(name) for name in asked.main)  # the main input of a class above it
    wanted = "input_ids" in asked.main or foreign or part(asked.config, "text_config")
    if not asked.takes("input_ids") or not wanted:
        yield way
        return
    # for a forward that looks for padding, or for the end
    known = replace(tokens, runs=((_last(asked.text), 1),), never=special(asked.text))
    if type(asked.model).__name__ in listed("MULTIPLE_CHOICE"):  # on meta another may seem to come further
        yield {**way, "input_ids": replace(known, shape=(1, 2, asked.length))}
        return
    yield {**way, "input_ids": tokens}
    yield {**way, "input_ids": known}
    books = number(asked.config, "num_codebooks", default=0)
    shapes = [(books, asked.length), (1, books, asked.length), (1, asked.length, books)] if books else []
    for shape in (*shapes, (1, 2, asked.length)):
        yield {**way, "input_ids": replace(known, shape=shape)}
    if books:  # a text beside its sounds
        codes = number(asked.config, "codebook_vocab_size", default=vocabulary(asked) or 2)
        yield {**way, "input_ids": replace(tokens, shape=(1, asked.length, books + 1), below=codes)}


def _last(config: Any) -> int:
    """The token that ends a text; without one, the first ordinary one."""
    end = getattr(config, "eos_token_id", None)
    end = end[0] if isinstance(end, list) and end else end
    return end if isinstance(end, int) else next(n for n in range(1000) if n not in special(config))


def decoder_ids(asked: Asked) -> InputSpec:
    config = part(asked.config, "decoder", "decoder_config") or asked.config
    words = number(config, "decoder_vocab_size", "vocab_size", default=0)
    words = words or number(asked.text, "vocab_size", default=0)
    longest = number(config, "max_target_positions", "max_position_embeddings", default=TEXT_LENGTH)
    length = min(TEXT_LENGTH, longest) if longest > 0 else TEXT_LENGTH
    rows, channels = (number(config, name, default=1) for name in ("num_codebooks", "num_channels"))
    shape = (1, length, channels) if channels > 1 else (rows, length)
    return InputSpec(shape, torch.int64, below=words or None)


# Images and sounds within a text.

MERGED = ("image", "video", "audio")
"""What can stand within a text, where its placeholder tokens are."""


def placeholder(config: Any, kind: str) -> int | None:
    for one in configurations(config):
        for name in (f"{kind}_token_id", f"{kind}_token_index"):
            if isinstance(getattr(one, name, None), int):
                return int(getattr(one, name))
    return None


def placed(asked: Asked, ids: InputSpec) -> int:
    """How many placeholders a text begins with."""
    tokens = {placeholder(asked.config, kind) for kind in MERGED}
    return sum(count for token, count in ids.runs if token in tokens)
