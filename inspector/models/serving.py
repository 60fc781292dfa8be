"""A language model as it is served: the prompt at once (prefill), then token by token on what is kept of the
earlier ones (decode).

The model makes its cache itself: a short prompt runs, without being counted, and every layer of keys and
values is then told of further tokens by its own `update`, so that grouped heads, latents, windows and states
are what they are in service. What comes in are random values, or none on meta.
"""

from __future__ import annotations

import copy
import inspect as introspection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from inspector.core.errors import InspectError
from inspector.models.inputs import Inputs, InputSpec, materialise
from inspector.models.kv_caches import (
    CACHES,
    QUANTISED,
    Make,
    filled,
    grow,
    nbytes,
    quantised,
    static,
    values,
)
from inspector.models.subject import Recipe
from inspector.tracing.capture import capture
from inspector.tracing.record import Served

PHASES = ("prefill", "decode")
_NAMES = ("cache", "past_key_values", "cache_params")
"""What transformers calls a cache among the arguments of a forward, and among its results."""
_CONTEXT = 2048
_SHORT = 2
"""Tokens of the prompt that makes the cache."""
_GROUP = 1024
"""More tokens by which a quantised cache is compared: whole groups of numbers that share a scale."""


@dataclass(frozen=True)
class Serving:
    """A step of a service: `batch` sequences that have `context` tokens each. A prefill computes all of them,
    a decode `new_tokens` more. `cache`: "dynamic" grows with every token, "static" is as large as the whole
    from the start, "fp8", "int4" and "int2" grow in fewer bits."""

    phase: str
    context: int
    batch: int
    new_tokens: int
    cache: str

    @staticmethod
    def of(
        phase: str,
        context: int | None = None,
        batch: int | None = None,
        new_tokens: int | None = None,
        kv_cache: str | None = None,
    ) -> Serving | None:
        """The step that `phase` names; None for the forward and for training, which have no such numbers.
        Raises InspectError for numbers that fit no step."""
        numbers = {"context": context, "batch": batch, "new_tokens": new_tokens}
        if phase not in PHASES:
            for name, value in {**numbers, "kv_cache": kv_cache}.items():
                if value is not None:
                    raise InspectError(f"`{name}=` belongs to a prefill or a decode", 'add `phase="decode"`')
            return None
        if phase == "prefill" and new_tokens is not None:
            raise InspectError(
                "a prefill makes no new tokens", 'leave `new_tokens=` out, or `phase="decode"`'
            )
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise InspectError(f"`{name}={value}` is no number of tokens or sequences", "use 1 or more")
        if kv_cache not in (None, *CACHES):
            raise InspectError(f"no cache is called {kv_cache!r}", f"use one of: {', '.join(CACHES)}")
        if phase == "prefill" and kv_cache in QUANTISED:
            raise InspectError(
                f"a prefill computes on keys and values as they are, not in {kv_cache}",
                'add `phase="decode"`',
            )
        return Serving(phase, context or _CONTEXT, batch or 1, new_tokens or 1, kv_cache or "dynamic")

    @property
    def length(self) -> int:
        """Tokens of one sequence that this step computes."""
        return self.context if self.phase == "prefill" else self.new_tokens

    @property
    def whole(self) -> int:
        """Tokens of one sequence after this step."""
        return self.context + (0 if self.phase == "prefill" else self.new_tokens)


class Step:
    """A recipe in service: its default inputs are those of the step, and `served` says what was made."""

    def __init__(self, recipe: Recipe, serving: Serving, device: str, seed: int = 0) -> None:
        self.source, self.serving, self.device, self.seed = recipe, serving, device, seed
        self.served: Served | None = None

    @property
    def recipe(self) -> Recipe:
        return replace(self.source, defaults=lambda model, phase: self._inputs(model))

    def _inputs(self, model: nn.Module) -> Inputs:
        """The inputs of the step, with a cache of the context where it is a decode."""
        serving, name = self.serving, self._name_of_cache(model)
        cache, grown = self._of_context(model, name, values(self.device, self.seed))
        tokens, kind = serving.batch * serving.length, f"{type(cache).__name__}"
        self.served = Served(
            serving.context, serving.batch, tokens, kind, nbytes(cache), grown, serving.cache
        )
        inputs = self._call(model, serving.length)
        if serving.phase == "decode":
            inputs.kwargs[name] = cache
        elif serving.cache == "static":
            inputs.kwargs[name] = static(model, serving.whole, self.source.name)
        return inputs

    def _of_context(self, model: nn.Module, name: str, make: Make) -> tuple[Any, int]:
        """What is kept of the context, and the bytes that one more token of one sequence adds."""
        serving, short = self.serving, min(self.serving.context, _SHORT)
        cache = self._cache(model, name, short)
        if serving.cache in QUANTISED:
            caches = (
                filled(quantised(model, serving.cache, self.source.name), cache, count, make)
                for count in (serving.context, serving.context + _GROUP)
            )
            cache, longer = caches
            return cache, (nbytes(longer) - nbytes(cache)) // (serving.batch * _GROUP)
        grow(cache, serving.context - short, make)
        longer = copy.deepcopy(cache)
        grow(longer, 1, make)
        return cache, (nbytes(longer) - nbytes(cache)) // serving.batch

    def _name_of_cache(self, model: nn.Module) -> str:
        parameters = introspection.signature(model.forward).parameters
        name = next((name for name in _NAMES if name in parameters), None)
        config = getattr(model, "config", None)
        if name is None or "input_ids" not in parameters or getattr(config, "is_encoder_decoder", False):
            raise InspectError(
                f"{self.source.name} is no language model that keeps a cache: it has no {self.serving.phase}",
                "name a decoder of transformers, e.g. hf:DIR with a LlamaForCausalLM",
            )
        return name

    def _call(self, model: nn.Module, length: int) -> Inputs:
        """Token ids; of the prompt only the last logits, as `generate` asks for."""
        kwargs: dict[str, Any] = {
            "input_ids": InputSpec((self.serving.batch, length), torch.int64), "use_cache": True,
        }  # fmt: skip
        if "logits_to_keep" in introspection.signature(model.forward).parameters:
            kwargs["logits_to_keep"] = 1 if self.serving.phase == "prefill" else 0
        return Inputs((), kwargs)

    def _cache(self, model: nn.Module, name: str, length: int) -> Any:
        """What the model keeps of a prompt of `length` tokens."""
        inputs = self._call(model, length)
        if self.serving.cache == "static":
            inputs.kwargs[name] = static(model, self.serving.whole, self.source.name)
        keeping = _Keeping(model)
        args, kwargs = materialise(inputs, model, self.device, self.seed)
        source = self.source
        capture(
            keeping,
            args,
            kwargs,
            device=self.device,
            seed=self.seed,
            rules=source.rules if self.device == "meta" else {},
            context=lambda _: source.context(model),
        )
        cache = next((one for one in map(keeping.kept.get, _NAMES) if one is not None), None)
        if cache is None or not hasattr(cache, "layers"):
            kind = "nothing" if cache is None else f"a {type(cache).__name__}"
            raise InspectError(
                f"{source.name} keeps {kind} of a prompt, not transformers' layers of keys and values",
                "leave `phase=` out",
            )
        return cache


class _Kept:
    """What a forward returned, in an object that nobody looks into."""

    def __init__(self) -> None:
        self.outputs: Any = None

    def get(self, name: str) -> Any:
        return getattr(self.outputs, name, None)


class _Keeping(nn.Module):
    """Runs a model and keeps what it returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.kept = _Kept()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.kept.outputs = self.model(*args, **kwargs)
        return self.kept.outputs
