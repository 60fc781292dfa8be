"""A language model as it is served: the prompt at once (prefill), then token by token on what is kept of the
earlier ones (decode).

The model makes its cache itself: a short prompt runs, without being counted, and every layer of keys and
values is then told of further tokens by its own `update`, so that grouped heads, latents, windows and states
are what they are in service. What comes in are random values, or none on meta.
"""

from __future__ import annotations

import copy
import inspect as introspection
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError
from inspector.models.inputs import Inputs, InputSpec, materialise
from inspector.models.subject import Recipe
from inspector.tracing.capture import capture
from inspector.tracing.record import Served
from inspector.tracing.values import tensors

PHASES = ("prefill", "decode")
CACHES = ("dynamic", "static")
_NAMES = ("cache", "past_key_values", "cache_params")
"""What transformers calls a cache among the arguments of a forward, and among its results."""
_CONTEXT = 2048
_SHORT = 2
"""Tokens of the prompt that makes the cache."""


@dataclass(frozen=True)
class Serving:
    """A step of a service: `batch` sequences that have `context` tokens each. A prefill computes all of them,
    a decode `new_tokens` more. `cache`: "dynamic" grows with every token, "static" is as large as the whole
    from the start."""

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
        short = min(serving.context, _SHORT)
        cache = self._cache(model, name, short)
        make = _values(self.device, self.seed)
        _grow(cache, serving.context - short, make)
        before = _nbytes(cache)
        longer = copy.deepcopy(cache)
        _grow(longer, 1, make)
        grown = (_nbytes(longer) - before) // serving.batch
        tokens = serving.batch * serving.length
        self.served = Served(serving.context, serving.batch, tokens, f"{type(cache).__name__}", before, grown)
        inputs = self._call(model, serving.length)
        if serving.phase == "decode":
            inputs.kwargs[name] = cache
        elif serving.cache == "static":
            inputs.kwargs[name] = self._static(model)
        return inputs

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

    def _static(self, model: nn.Module) -> Any:
        import transformers

        try:
            return transformers.StaticCache(config=model.config, max_cache_len=self.serving.whole)
        except (TypeError, ValueError, AttributeError, NotImplementedError, KeyError) as error:
            raise InspectError(
                f"{self.source.name} has no static cache: {error}", 'use `kv_cache="dynamic"`'
            ) from error

    def _cache(self, model: nn.Module, name: str, length: int) -> Any:
        """What the model keeps of a prompt of `length` tokens."""
        inputs = self._call(model, length)
        if self.serving.cache == "static":
            inputs.kwargs[name] = self._static(model)
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


Make = Callable[[Tensor, int, int], Tensor]


def _values(device: str, seed: int) -> Make:
    """Makes a tensor like another with `count` entries in dimension `dim`."""
    generator = torch.Generator().manual_seed(seed)

    def make(like: Tensor, count: int, dim: int) -> Tensor:
        shape = list(like.shape)
        shape[dim] = count
        if device == "meta":
            return torch.empty(shape, dtype=like.dtype, device="meta")
        return torch.randn(shape, generator=generator).to(like.dtype).to(like.device)

    return make


def _grow(cache: Any, count: int, make: Make) -> None:
    """Tell each layer that keeps something of every token of `count` more."""
    if count < 1:
        return
    with torch.no_grad():
        for layer in cache.layers:
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if isinstance(keys, Tensor) and isinstance(values, Tensor):
                layer.update(make(keys, count, -2), make(values, count, -2))
                _compact(layer)
            indexer = getattr(layer, "indexer_keys", None)
            if isinstance(indexer, Tensor):
                layer.update_indexer(make(indexer, count, 1))


def _compact(layer: Any) -> None:
    """A window is a view of all that it was cut from, until a few steps later: as it is then."""
    for name in ("keys", "values"):
        tensor = getattr(layer, name)
        if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.dtype.itemsize:
            setattr(layer, name, tensor.clone())


def _nbytes(cache: Any) -> int:
    """Bytes of the keys, values and states; counters of positions are none of them."""
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in _held(cache))


def _held(cache: Any) -> Iterator[Tensor]:
    seen: set[int] = set()
    for layer in cache.layers:
        for tensor in tensors(vars(layer)):
            if tensor.dim() > 1 and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor
