"""torchvision's registered models: every task, with or without a weights entry, never a download."""

from __future__ import annotations

import inspect as introspection
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.models import detection, int8
from inspector.models.inputs import Inputs, InputSpec
from inspector.models.subject import Recipe
from inspector.tracing._deferred import deferred

VIDEO_FRAMES = 16
FLOW_SIZE = 512
"""The sizes behind torchvision's published figures: test/common_extended_utils.py of pytorch/vision."""


def imported() -> None:
    """Import torchvision; in a process of our own without torch's compiler, which it imports for one name
    that it seldom needs."""
    with deferred():
        import torchvision.models  # noqa: F401


def names() -> list[str]:
    from torchvision.models import list_models

    return list_models()


def recipe(name: str, model_args: Mapping[str, Any]) -> Recipe:
    """`resnet50`, or `resnet50@IMAGENET1K_V2`: built as that weights entry's own loader does."""
    from torchvision.models import get_model_builder

    base, at, entry_name = name.partition("@")
    if base not in names():
        raise InspectError(f"no torchvision model is called {base!r}", nearest(base, names()))
    builder = get_model_builder(base)
    _check_arguments(base, builder, model_args)
    arguments = dict(model_args)
    entry = None
    if at:
        entry = arguments["weights"] = _entry(base, entry_name)
    kind = builder.__module__.split(".")[-2]
    quantized = kind == "quantization" and (entry is not None or bool(arguments.get("quantize")))
    if quantized:
        arguments["quantize"] = True
    detects = kind == "detection"
    rules: Mapping[str, Any] = detection.RULES if detects else int8.RULES if quantized else {}
    return Recipe(
        name=name,
        source="torchvision",
        construct=_constructor(builder, arguments),
        defaults=lambda model, phase: default_inputs(model, base, kind, entry, phase),
        rules=rules,
        context=detection.countable if detects else nullcontext,
        assumed=detection.assumptions if detects else lambda model: (),
        uncounted=detection.uncounted if detects else lambda model: (),
        only_on=("cpu", "quantized kernels exist on the CPU only") if quantized else None,
        outline=int8.outline if quantized else None,
        reference=_float_twin(builder, arguments) if quantized else None,
    )


def _constructor(builder: Callable[..., nn.Module], arguments: dict[str, Any]) -> Any:
    def construct() -> nn.Module:
        with no_downloads():
            return builder(**arguments)

    return construct


def _float_twin(builder: Callable[..., nn.Module], arguments: dict[str, Any]) -> Any:
    """The same architecture before fusion and quantisation, as its own weights entry builds it."""
    twin = {**arguments, "quantize": False}
    if "weights" in twin:
        twin["weights"] = twin["weights"].meta["unquantized"]
    return _constructor(builder, twin)


@contextmanager
def no_downloads() -> Iterator[None]:
    """Weights entries keep their effect on the architecture, but load nothing.

    Also puts back the quantization engine, which the quantized builders set.
    """
    from torchvision.models import WeightsEnum

    fetch, load = WeightsEnum.get_state_dict, nn.Module.load_state_dict
    engine = torch.backends.quantized.engine
    WeightsEnum.get_state_dict = lambda self, *args, **kwargs: {}  # type: ignore[method-assign]
    nn.Module.load_state_dict = lambda self, *args, **kwargs: None  # type: ignore
    try:
        yield
    finally:
        WeightsEnum.get_state_dict, nn.Module.load_state_dict = fetch, load  # type: ignore
        if torch.backends.quantized.engine != engine:
            torch.backends.quantized.engine = engine


def _entry(base: str, entry_name: str) -> Any:
    from torchvision.models import get_model_weights

    entries = get_model_weights(base)
    entry = getattr(entries, entry_name, None)
    if not isinstance(entry, entries):
        names = ", ".join(dict.fromkeys([*entries.__members__, "DEFAULT"]))
        raise InspectError(f"{base} has no weights entry {entry_name!r}", f"it has: {names}")
    return entry


def _check_arguments(name: str, builder: Callable[..., nn.Module], model_args: Mapping[str, Any]) -> None:
    if "weights" in model_args:
        raise InspectError(
            "weights is not a model argument here", f"name the entry: {name}@{model_args['weights']}"
        )
    parameters = introspection.signature(builder).parameters
    takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [key for key in parameters if key not in ("weights", "progress", "kwargs")]
    if takes_more and builder.__module__.startswith("torchvision.models.detection"):
        names += _detector_arguments(builder)  # its constructor silently accepts unknown arguments
        takes_more = False
    unknown = [key for key in model_args if key not in names]
    if unknown and not takes_more:
        accepted = ", ".join(dict.fromkeys(names))
        raise InspectError(f"{name} takes no argument {unknown[0]!r}", f"it takes: {accepted}")


_DETECTORS = ("FasterRCNN", "MaskRCNN", "KeypointRCNN", "RetinaNet", "FCOS", "SSD")


def _detector_arguments(builder: Callable[..., nn.Module]) -> list[str]:
    """What the constructors of the detectors in the builder's module take."""
    module = sys.modules[builder.__module__]
    detectors = [cls for name, cls in vars(module).items() if name in _DETECTORS]
    names = [name for cls in detectors for name in introspection.signature(cls).parameters]
    return [name for name in names if name not in ("self", "args", "kwargs", "backbone")]


def default_inputs(model: nn.Module, base: str, kind: str, entry: Any, phase: str) -> Inputs:
    """The input that the model's own recipe uses; see each branch."""
    if kind == "detection":
        return _detection_inputs(model, phase)
    if kind == "optical_flow":
        image = InputSpec((1, 3, FLOW_SIZE, FLOW_SIZE))
        return Inputs((image, image))
    height, width = _crop(model, base, entry)
    if kind == "video":
        return Inputs((InputSpec((1, 3, VIDEO_FRAMES, height, width)),))
    return Inputs((InputSpec((1, 3, height, width)),))


def _crop(model: nn.Module, base: str, entry: Any) -> tuple[int, int]:
    """The entry's crop (segmentation: its resize); without an entry, the size that the architecture
    was built for, else the crop of the default entry."""
    from torchvision.models import get_model_weights

    built_for = getattr(model, "image_size", None)
    if entry is None and isinstance(built_for, int):
        return built_for, built_for
    transforms = (entry or get_model_weights(base).DEFAULT).transforms
    keywords = getattr(transforms, "keywords", {})
    size = keywords.get("crop_size", keywords.get("resize_size", 224))
    height, width = (size, size) if isinstance(size, int) else (size[-2], size[-1])
    return height, width


def _detection_inputs(model: nn.Module, phase: str) -> Inputs:
    """One square image of the size that the model's own transform resizes to."""
    transform: Any = model.transform
    if getattr(transform, "fixed_size", None):
        width, height = transform.fixed_size
    else:
        height = width = int(transform.min_size[-1])
    images = [InputSpec((3, height, width))]
    if phase == "forward":
        return Inputs((images,))
    return Inputs((images, [_target(model, height, width)]))


def _target(model: nn.Module, height: int, width: int) -> dict[str, InputSpec]:
    """One object in the middle of the image, with mask and keypoints where the model trains them."""
    heads = getattr(model, "roi_heads", None)
    box = [[width / 4, height / 4, width * 3 / 4, height * 3 / 4]]
    target = {
        "boxes": InputSpec((1, 4), values=box),
        "labels": InputSpec((1,), torch.int64, values=[1]),
    }
    if heads is not None and heads.has_mask():
        target["masks"] = InputSpec((1, height, width), torch.uint8, below=2)
    if heads is not None and heads.has_keypoint():
        points = [[[width / 2, height / 2, 1.0]] * heads.keypoint_predictor.kps_score_lowres.out_channels]
        target["keypoints"] = InputSpec((1, 17, 3), values=points)
    return target


def rows() -> Iterator[dict[str, Any]]:
    """A row for each model: its task, weights entries, and what torchvision publishes for DEFAULT."""
    from torchvision.models import get_model_builder, get_model_weights

    tasks = {"models": "classification", "quantization": "quantized classification"}
    for name in names():
        kind = get_model_builder(name).__module__.split(".")[-2]
        entries = get_model_weights(name)
        published = entries.DEFAULT.meta if len(entries) else {}
        yield {
            "spec": name,
            "source": "torchvision",
            "task": tasks.get(kind, kind.replace("_", " ")),
            "params": published.get("num_params"),
            "gmacs": published.get("_ops"),
            "entries": " ".join(entry.name for entry in entries),
        }
