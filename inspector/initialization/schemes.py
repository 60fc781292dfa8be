"""Schemes by name: the law that each gives a tensor, and the torch.nn.init call that draws it.

kaiming_uniform, kaiming_normal   He et al. 2015; gain sqrt(2 / (1 + a^2)) over sqrt(fan)
xavier_uniform, xavier_normal     Glorot & Bengio 2010; over fan_in + fan_out
trunc_normal, normal              std 0.02; trunc_normal is cut at -2 and 2 (in absolute units)
orthogonal                        Saxe et al. 2013
zeros, ones, constant
c2_xavier_fill, c2_msra_fill      fvcore.nn.weight_init: kaiming_uniform a=1, kaiming_normal fan_out;
                                  both set the bias to 0
default                           what reset_parameters() of the layer's class gives
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import init

from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.initialization import laws
from inspector.initialization.laws import Law
from inspector.initialization.targets import Fans, Target

Options = dict[str, Any]
BIAS = ("auto", "keep", "zeros", "default")
CUT = 2.0
"""torch.nn.init.trunc_normal_ cuts at -2 and 2, not at two standard deviations."""


@dataclass(frozen=True)
class Scheme:
    """`law(target, options)` for a weight; `write(tensor, options)` draws it with torch.nn.init.
    `options` are the ones it uses, with their defaults; `bias` is what "auto" means."""

    name: str
    law: Callable[[Target, Options], Law | None]
    write: Callable[[Tensor, Options], Any]
    options: tuple[tuple[str, Any], ...] = ()
    bias: str = "keep"


def _fans(target: Target) -> Fans:
    if target.fans is None:
        raise InspectError(
            f"{target.name} has one dimension: its fans are not defined",
            "leave its layer out of `layers=`, or use normal, zeros, ones or constant",
        )
    return target.fans


def _fan(target: Target, options: Options) -> int:
    fans = _fans(target)
    return max(fans.fan_out if options["mode"] == "fan_out" else fans.fan_in, 1)


def _both(target: Target) -> int:
    fans = _fans(target)
    return max(fans.fan_in + fans.fan_out, 1)


def _kaiming(law: Callable[[float, float, str], Law], name: str) -> Callable[[Target, Options], Law]:
    def make(target: Target, options: Options) -> Law:
        label = f"{name} a={laws.slope(options['a'])} {options['mode']}"
        return law(options["a"], _fan(target, options), label)

    return make


def _xavier(law: Callable[[float, float, str], Law], name: str) -> Callable[[Target, Options], Law]:
    def make(target: Target, options: Options) -> Law:
        gain = options["gain"]
        return law(gain, _both(target), name if gain == 1 else f"{name} gain={gain:.4g}")

    return make


def _orthogonal(target: Target, options: Options) -> Law:
    _fans(target)
    return laws.orthogonal(options["gain"], tuple(target.read().shape))


def _normal(target: Target, options: Options) -> Law:
    return laws.normal(options["std"], f"normal std={options['std']:.4g}")


def _trunc_normal(target: Target, options: Options) -> Law:
    return laws.normal(options["std"], f"trunc_normal std={options['std']:.4g}", cut=CUT)


def _value(value: float) -> Callable[[Target, Options], Law]:
    return lambda target, options: laws.constant(options.get("value", value))


def default_law(target: Target) -> Law | None:
    """What `reset_parameters()` of the layer's class draws for this tensor; None where it is unknown.

    Convolution, linear: weight and bias uniform +-1/sqrt(fan_in); the weight by kaiming_uniform_ with
    a = sqrt(5). Bilinear: +-1/sqrt(in1_features). Recurrent: +-1/sqrt(hidden_size). Embedding: N(0, 1).
    Norms: 1 and 0. MultiheadAttention: in_proj xavier_uniform, biases 0, bias_k and bias_v
    xavier_normal.
    """
    if target.role.startswith("norm"):
        return laws.constant(0.0 if target.role == "norm bias" else 1.0)
    rule = _DEFAULTS.get(target.kind)
    return rule(target) if rule is not None else None


def _reset_default(target: Target) -> Law | None:
    if target.fans is None or target.role == "other" or target.fans.fan_in == 0:
        return None
    weight = target.role == "weight"
    label = "default (kaiming_uniform a=sqrt(5))" if weight else "default"
    return laws.uniform(1 / math.sqrt(target.fans.fan_in), label)


def _linear_default(target: Target) -> Law | None:
    of_attention = isinstance(target.module, nn.modules.linear.NonDynamicallyQuantizableLinear)
    if of_attention and target.role == "bias" and target.layer.rpartition(".")[2] == "out_proj":
        return laws.constant(0.0)
    return _reset_default(target)


def _attention_default(target: Target) -> Law | None:
    if target.role == "bias":
        return laws.constant(0.0)
    if target.attribute in ("bias_k", "bias_v"):
        return laws.xavier_normal(1.0, _both(target), "default (xavier_normal)")
    return laws.xavier_uniform(1.0, _both(target), "default (xavier_uniform)")


def _sized_default(size: str) -> Callable[[Target], Law]:
    return lambda target: laws.uniform(1 / math.sqrt(getattr(target.module, size)), "default")


_DEFAULTS: dict[str, Callable[[Target], Law | None]] = {
    "convolution": _reset_default,
    "transposed": _reset_default,
    "linear": _linear_default,
    "attention": _attention_default,
    "bilinear": _sized_default("in1_features"),
    "recurrent": _sized_default("hidden_size"),
    "embedding": lambda target: laws.normal(1.0, "default (normal std=1)"),
}


def _no_write(tensor: Tensor, options: Options) -> None:
    raise AssertionError("the default scheme draws by its law: see draw")


_KAIMING = (("mode", "fan_in"),)
SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "kaiming_uniform",
            _kaiming(laws.kaiming_uniform, "kaiming_uniform"),
            lambda t, o: init.kaiming_uniform_(t, a=o["a"], mode=o["mode"]),
            (("a", 1.0), *_KAIMING),
        ),
        Scheme(
            "kaiming_normal",
            _kaiming(laws.kaiming_normal, "kaiming_normal"),
            lambda t, o: init.kaiming_normal_(t, a=o["a"], mode=o["mode"]),
            (("a", 0.0), *_KAIMING),
        ),
        Scheme(
            "xavier_uniform",
            _xavier(laws.xavier_uniform, "xavier_uniform"),
            lambda t, o: init.xavier_uniform_(t, gain=o["gain"]),
            (("gain", 1.0),),
        ),
        Scheme(
            "xavier_normal",
            _xavier(laws.xavier_normal, "xavier_normal"),
            lambda t, o: init.xavier_normal_(t, gain=o["gain"]),
            (("gain", 1.0),),
        ),
        Scheme(
            "trunc_normal",
            _trunc_normal,
            lambda t, o: init.trunc_normal_(t, std=o["std"]),
            (("std", 0.02),),
        ),
        Scheme("normal", _normal, lambda t, o: init.normal_(t, std=o["std"]), (("std", 0.02),)),
        Scheme(
            "orthogonal", _orthogonal, lambda t, o: init.orthogonal_(t, gain=o["gain"]), (("gain", 1.0),)
        ),
        Scheme("zeros", _value(0.0), lambda t, o: init.zeros_(t)),
        Scheme("ones", _value(1.0), lambda t, o: init.ones_(t)),
        Scheme(
            "constant", _value(0.0), lambda t, o: init.constant_(t, o["value"]), (("value", None),)
        ),
        Scheme(
            "c2_xavier_fill",
            lambda t, o: _kaiming(laws.kaiming_uniform, "kaiming_uniform")(t, {"a": 1.0, "mode": "fan_in"}),
            lambda t, o: init.kaiming_uniform_(t, a=1),
            bias="zeros",
        ),
        Scheme(
            "c2_msra_fill",
            lambda t, o: _kaiming(laws.kaiming_normal, "kaiming_normal")(t, {"a": 0.0, "mode": "fan_out"}),
            lambda t, o: init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu"),
            bias="zeros",
        ),
        Scheme("default", lambda t, o: default_law(t), _no_write, bias="default"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A scheme with its options and bias rule decided: `bias` is keep, zeros, default or a number."""

    scheme: Scheme
    options: Options
    bias: str | float

    def law(self, target: Target) -> Law | None:
        """The law of one tensor under this choice; None where the tensor is left as it is."""
        if self.scheme.name == "default":
            default = None if target.role == "bias" and self.bias == "keep" else default_law(target)
            return default if target.role != "bias" or self.bias == "default" else self._bias_law(target)
        if target.role in ("bias", "norm bias"):
            return self._bias_law(target)
        if target.role in ("weight", "norm weight"):
            return self.scheme.law(target, self.options)
        return None

    def _bias_law(self, target: Target) -> Law | None:
        if self.bias == "keep":
            return None
        if self.bias == "default":
            return default_law(target)
        return laws.constant(0.0 if self.bias == "zeros" else float(self.bias))

    @property
    def text(self) -> str:
        """The choice as a header line, e.g. "kaiming_uniform a=1 mode=fan_in, bias keep"."""
        options = "".join(
            f" {name}={laws.slope(value) if name == 'a' else value}" for name, value in self.options.items()
        )
        return f"{self.scheme.name}{options}, bias {self.bias}"


def choose(name: str, bias: str | float = "auto", **options: Any) -> Choice:
    """The scheme called `name` with the options given (None means its default). Raises InspectError for
    an unknown name, an option that the scheme does not use, and a value out of range."""
    scheme = find(name)
    defaults = dict(scheme.options)
    for option, value in options.items():
        if value is not None and option not in defaults:
            uses = ", ".join(f"`{used}=`" for used in defaults) or "no options"
            raise InspectError(f"{name} does not use `{option}=`", f"leave it out: {name} uses {uses}")
    merged = {o: d if options.get(o) is None else options[o] for o, d in defaults.items()}
    _check(name, merged)
    return Choice(scheme, merged, _bias(scheme, bias))


def find(name: str) -> Scheme:
    """The scheme of that name. Raises InspectError with the nearest name and the list."""
    if name not in SCHEMES:
        listed = f"there are: {', '.join(SCHEMES)}"
        near = nearest(name, SCHEMES, "")
        raise InspectError(f"no scheme is called {name!r}", f"{near} {listed}".strip())
    return SCHEMES[name]


def _check(name: str, options: Options) -> None:
    if options.get("mode", "fan_in") not in ("fan_in", "fan_out"):
        raise InspectError(f"`mode=` {options['mode']!r} is not a fan mode", "use fan_in or fan_out")
    if "value" in options and options["value"] is None:
        raise InspectError("constant needs a value", "give `value=0.01`")
    for option in ("a", "gain", "std", "value"):
        number = options.get(option, 1.0)
        if not isinstance(number, (int, float)) or not math.isfinite(number):
            raise InspectError(f"`{option}=` {number!r} is not a finite number", "write e.g. 0.5")
    for option in ("gain", "std"):
        if options.get(option, 1.0) <= 0:
            raise InspectError(f"`{option}=` must be positive", "use zeros for a weight of zeros")


def _bias(scheme: Scheme, bias: str | float) -> str | float:
    if bias == "auto":
        return scheme.bias
    if bias in BIAS:
        return bias
    try:
        number = float(bias)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InspectError(
            f"`bias=` {bias!r} is neither a rule nor a number", f"use {', '.join(BIAS)} or 0.1"
        )
    return number


def draw(tensor: Tensor, law: Law, target: Target, choice: Choice) -> None:
    """Write one tensor: weights by the scheme's own torch.nn.init call, the rest by their law."""
    if choice.scheme.name != "default" and target.role in ("weight", "norm weight"):
        choice.scheme.write(tensor, choice.options)
        _pad(tensor, target)
    elif law.label.startswith("default (kaiming_uniform"):
        init.kaiming_uniform_(tensor, a=math.sqrt(5))
    elif law.label == "default (xavier_uniform)":
        init.xavier_uniform_(tensor)
    elif law.family == "uniform":
        init.uniform_(tensor, -law.scale, law.scale)
    elif law.family == "normal":
        init.normal_(tensor, std=law.scale)
        _pad(tensor, target)
    else:
        init.constant_(tensor, law.scale)


def _pad(tensor: Tensor, target: Target) -> None:
    """An embedding's padding row is zero."""
    index = getattr(target.module, "padding_idx", None)
    if index is not None:
        tensor[index].zero_()
