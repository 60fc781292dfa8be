"""What each module is, for the colours of the page: a convolution, a norm, or only a container of others.

The names of classes decide where they say it (`LlamaRMSNorm`, `Conv2dNormActivation` holds others and is a
container); else what the module computes itself.
"""

from __future__ import annotations

import re
from collections import Counter

from inspector.profiling.views.modules import ancestors
from inspector.tracing.record import Op, Trace

CONTAINER, OTHER = "container", "other"
_NAMES = (
    ("convolution", r"conv(transpose)?[123]d$|^(lazy)?conv|deformconv|^conv1x1"),
    ("attention", r"attention|attn$"),
    ("norm", r"norm([123]d)?$|^lrn$|frozenbatchnorm"),
    ("embedding", r"embed(ding|dings)?(bag)?$|embedding$"),
    ("recurrent", r"^(rnn|lstm|gru)(cell)?$"),
    ("pooling", r"pool(ing)?([123]d)?$|upsample|pixel(un)?shuffle"),
    ("linear", r"linear|^conv1d$"),
    ("activation", r"(relu|gelu|elu|silu|swish|mish|tanh|sigmoid|softmax|softplus|hard\w+|activation)\d*$"),
)
_WORK = {
    "conv": "convolution", "attention": "attention", "rnn": "recurrent", "lstm": "recurrent",
    "gru": "recurrent", "mm": "linear", "linear": "linear", "embedding": "embedding",
}  # fmt: skip


def kinds(trace: Trace) -> dict[str, str]:
    """The kind of each module, by path."""
    parents = {outer for module in trace.modules for outer in list(ancestors(module.path))[1:]}
    own: dict[str, Counter[str]] = {}
    inside: Counter[str] = Counter()
    for op in trace.ops:
        own.setdefault(op.module, Counter())[_work(op)] += 1 + (op.macs or 0)
        for path in ancestors(op.module):
            inside[path] += op.bytes_read + op.bytes_written
    of_children: Counter[str] = Counter()
    for module in trace.modules:
        if module.path:
            of_children[module.path.rpartition(".")[0]] += inside[module.path]
    result = {}
    for module in trace.modules:
        holds = module.path in parents and 2 * of_children[module.path] >= inside[module.path]
        result[module.path] = _kind(module.type, holds, own.get(module.path, Counter()))
    return result


def _kind(type_: str, holds: bool, own: Counter[str]) -> str:
    named = next((kind for kind, pattern in _NAMES if re.search(pattern, type_.lower())), None)
    if named == "attention" or (named is not None and not holds):
        return named
    if holds:
        return CONTAINER
    return next((kind for kind, _ in own.most_common() if kind), OTHER)


def _work(op: Op) -> str:
    """The kind that an operator speaks for, "" for none."""
    name = f"{op.group} {op.name.rpartition('.')[2]}"
    return next((kind for word, kind in _WORK.items() if word in name), "")
