"""Every model class of transformers' auto mappings, with its default input: what builds, runs and trains.

    nice -n 19 python benchmarks/transformers_sweep.py       what the result lacks; it resumes when stopped
    python benchmarks/transformers_sweep.py --failed         what failed there too
    python benchmarks/transformers_sweep.py --so-far         saves what a stopped sweep has
    python benchmarks/transformers_sweep.py siglip 'sam*'    these model types, printed and not saved

Each class is built on meta from the default configuration of its model type, made short: every field that
counts layers (`num_hidden_layers`, `encoder_layers`, ...), there and in its sub-configurations, becomes 2.
Where such a configuration is refused, builds no model or does not run, the default one is used: "whole".
Nothing is downloaded. A row holds the inputs, MACs and parameters of the forward; the MACs of training, and
its inputs where they differ by more than labels; the operators without a formula; the reason of whatever
failed ("plain": transformers alone fails on its default configuration too); and, where the default
configuration contradicts itself, what was mended (`transformers_mends.py`). A class may take
`LIMIT` seconds.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from common import committed, resumable, save, so_far, unknown
from transformers_mends import MENDS, reason

NAME = "transformers_sweep"
LIMIT = 60
LAYERS = {
    "num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers", "num_decoder_layers", "n_layer",
    "num_encoder_layers", "n_layers", "num_attention_layers", "depth",
}  # fmt: skip
SHORT = 2
SHARED = "num_kv_shared_layers"
FIRST = (
    "", "FOR_IMAGE_TEXT_TO_TEXT_", "FOR_CAUSAL_LM_", "FOR_SEQ_TO_SEQ_CAUSAL_LM_", "FOR_SPEECH_SEQ_2_SEQ_",
    "FOR_IMAGE_CLASSIFICATION_", "FOR_MASKED_LM_", "FOR_OBJECT_DETECTION_", "FOR_TIME_SERIES_PREDICTION_",
    "FOR_MASK_GENERATION_", "FOR_AUDIO_CLASSIFICATION_", "FOR_SEMANTIC_SEGMENTATION_",
    "FOR_VIDEO_CLASSIFICATION_",
)  # fmt: skip
FILLED = {
    "prediction_length": 24, "vocab_size": 100, "image_token_id": 5, "image_token_index": 5,
    "audio_token_id": 6, "video_token_id": 7,
}  # fmt: skip
"""Fields that have no default and that every user sets."""
MOST_ON_CPU = 2**30
"""Bytes of weights up to which a class is counted on the CPU where meta cannot run it."""


def classes() -> dict[str, str]:
    """Each class in an auto mapping, and its model type: first one of each type, from its main task."""
    import transformers
    from transformers.models.auto import modeling_auto

    found: dict[str, str] = {}
    first = [f"MODEL_{task}MAPPING_NAMES" for task in FIRST]
    for name in (*first, *sorted(vars(modeling_auto))):
        if name.startswith("MODEL_") and name.endswith("MAPPING_NAMES"):
            for model_type, listed in vars(modeling_auto)[name].items():
                for cls in listed if isinstance(listed, (list, tuple)) else (listed,):
                    if hasattr(transformers, cls):  # some mappings name what is not exported
                        found.setdefault(cls, model_type)
    firsts = set({kind: cls for cls, kind in reversed(found.items())}.values())
    return dict(sorted(found.items(), key=lambda pair: pair[0] not in firsts))


def shortened(config: Any) -> dict[str, Any]:
    """The fields of a configuration that make it short."""
    fields: dict[str, Any] = {}
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            inner = shortened(value)
            if inner:
                fields[name] = {**inner, "model_type": value.model_type}
        elif name in LAYERS and isinstance(value, int) and value > SHORT:
            fields[name] = max(SHORT, _each_kind(getattr(config, "layer_types", None) or []))
        elif name == SHARED and value:  # the last ones, which read the keys of those that are left out
            fields[name] = 0
    return fields


def _each_kind(layers: list[str]) -> int:
    """How many layers hold one of every kind."""
    return max((layers.index(kind) + 1 for kind in set(layers)), default=0)


def mended(kind: Any, fields: dict[str, Any]) -> Any:
    """A short configuration with these fields."""
    try:
        short = shortened(kind())
    except Exception:
        short = {}
    return kind(**_joined(short, fields))


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {
        name: _joined(one[name], other[name])
        for name in one.keys() & other.keys()
        if isinstance(one[name], dict)
    }
    return {**one, **other, **both}


def configurations(cls: Any, model_type: str) -> Iterator[tuple[Any, bool]]:
    """The mended one, where the default contradicts itself; the short one, then the whole one."""
    kind = cls.config_class  # of this class: a model type can have several
    mend = MENDS.get(getattr(kind, "model_type", model_type))
    if mend:
        yield mended(kind, mend[1]), False
        return
    whole = kind()
    filled = {name: value for name, value in FILLED.items() if getattr(whole, name, 0) is None}
    fields = shortened(whole)
    if fields:
        try:
            yield kind(**fields, **filled), False
        except Exception:  # a list of layers that must be as long, or the like
            pass
    yield kind(**filled), True


def row(name: str, model_type: str) -> dict[str, Any]:
    import transformers

    from inspector.core.errors import InspectError
    from inspector.models.huggingface import from_config

    cls = getattr(transformers, name)
    mend = MENDS.get(getattr(getattr(cls, "config_class", None), "model_type", model_type))
    refused: Exception | None = None
    result: dict[str, Any] | None = None
    for config, whole in configurations(cls, model_type):
        config.architectures = [name]
        recipe = from_config(config, name)
        try:
            weights = sum(tensor.nbytes for tensor in recipe.build("meta").state_dict().values())
        except InspectError as error:
            refused = error
            continue
        result = {**({"whole": True} if whole else {}), **counted(recipe, weights)}
        if "forward" in result:
            return {**({"mended": f"{mend[0]}: {mend[1]}"} if mend else {}), **result}
    if result is not None:
        return result
    plain = refused_by_transformers(cls)
    return {"error": plain, "plain": True} if plain else {"error": str(refused)[:240]}


def refused_by_transformers(cls: Any) -> str | None:
    """What transformers alone raises where a default configuration builds no model."""
    import torch

    try:
        with torch.device("meta"):
            cls._from_config(cls.config_class())
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return None


def counted(recipe: Any, weights: int) -> dict[str, Any]:
    from inspector.core.errors import InspectError
    from inspector.profiling.run import trace
    from inspector.profiling.views.totals import totals

    result: dict[str, Any] = {}
    for phase in ("forward", "train"):
        try:
            run = trace(recipe, phase=phase, device=None if weights < MOST_ON_CPU else "meta")
        except InspectError as error:
            result[f"{phase}_error"] = " ".join(str(error).split())[:240]
            break
        sums = totals(run)
        result[phase] = sums["macs"]
        if phase == "forward":
            result["params"] = sums["params"]
            result["inputs"] = " ".join(run.inputs)
        elif set(result["inputs"].split()) - set(run.inputs):  # training demands a longer text
            result["train_inputs"] = " ".join(run.inputs)
        if run.device != "meta":
            note = next(note for note in run.notes if note.startswith("counted on"))
            result["device"] = note.removeprefix("counted on cpu, because meta cannot run it: ")[:120]
        if sums["unknown_ops"]:
            result["unknown"] = unknown(run)
    return result


def failed(one: dict[str, Any]) -> bool:
    """Whether a row lacks the counts of the forward or of training."""
    return "forward" not in one or "train" not in one


def main() -> None:
    import transformers

    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    types = classes()
    options = {"--so-far", "--failed"} & {*sys.argv[1:]}
    if sys.argv[1:] and not options:
        for name, kind in types.items():
            if any(fnmatch.fnmatch(kind, word) or name == word for word in sys.argv[1:]):
                try:
                    print(name, row(name, kind), flush=True)
                except Exception as error:
                    print(name, repr(error)[:200], flush=True)
        return
    done = {name: one for name, one in committed(NAME, "transformers").items() if name in types}
    if "--failed" in options:
        done = {name: one for name, one in done.items() if not failed(one)}
    done |= so_far(NAME)
    if "--so-far" in options:
        types = {name: kind for name, kind in types.items() if name in done}
    rows = resumable(NAME, list(types), lambda name: row(name, types[name]), LIMIT, done)
    for name, one in rows.items():
        one.pop("reason", None)
        if failed(one):
            one["reason"] = reason(name, one)
    run = {types[name] for name, one in rows.items() if "forward" in one}
    unexplained = [name for name, one in rows.items() if one.get("reason", "") is None]
    summary = {
        "transformers": transformers.__version__,
        "families": len({types[name] for name in rows}),
        "families_run": len(run),
        "families_that_fail_with_a_reason": len(
            {types[name] for name in rows} - run - {types[n] for n in unexplained}
        ),
        "without_a_reason": unexplained,
        "classes": len(rows),
        "classes_listed": len(classes()),
        "refused_by_transformers_alone": sum("plain" in found for found in rows.values()),
        "built": sum("error" not in found for found in rows.values()),
        "run": sum("forward" in found for found in rows.values()),
        "trained": sum("train" in found for found in rows.values()),
        "on_cpu": sum("device" in found for found in rows.values()),
        "with_unknown_operators": sum("unknown" in found for found in rows.values()),
        "seconds": round(sum(found.get("seconds", 0) for found in rows.values())),
    }
    print(summary)
    save(NAME, {**summary, "rows": {f"{types[k]} {k}": v for k, v in rows.items()}})


if __name__ == "__main__":
    main()
