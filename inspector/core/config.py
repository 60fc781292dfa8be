"""Settings from YAML files and by dotted name, merged over defaults (yacs). No code is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from inspector.core.errors import InspectError
from inspector.core.naming import nearest


def defaults() -> CfgNode:
    """Every setting with its default. `MODEL.ARGS` and `INPUT` are the keywords `model_args` and `inputs`,
    `FREEZE.STAGES` is `stages`: one string of globs for each stage."""
    node = CfgNode()
    node.MODEL = CfgNode()
    node.MODEL.NAME = "resnet50"
    node.MODEL.ARGS = CfgNode(new_allowed=True)
    node.INPUT = []
    node.SEED = 0
    node.FREEZE = CfgNode()
    node.FREEZE.AT = None
    node.FREEZE.SCHEME = "maskrcnn"
    node.FREEZE.PATTERNS = []
    node.FREEZE.NORM = "freeze"
    node.FREEZE.STAGES = []
    node.INIT = CfgNode()
    node.INIT.SCHEME = None
    node.INIT.A = None
    node.INIT.LAYERS = []
    node.INIT.BIAS = "auto"
    _training(node)
    return node


def _training(node: CfgNode) -> None:
    """The settings of `inspect ddp`. `DATA.SOURCE`: digits, synthetic or a folder of images;
    `DATA.BATCH` is a process's; rates and decays as torch.optim takes them; times in seconds."""
    node.DATA = CfgNode()
    node.DATA.SOURCE = "digits"
    node.DATA.BATCH = 8
    node.DATA.WORKERS = 0
    node.DATA.AUGMENT = True
    node.DATA.SAMPLES = 512
    node.SOLVER = CfgNode()
    node.SOLVER.OPTIMIZER = "sgd"
    node.SOLVER.BASE_LR = 0.001
    node.SOLVER.BIAS_LR_FACTOR = 2.0
    node.SOLVER.WEIGHT_DECAY = 1e-4
    node.SOLVER.WEIGHT_DECAY_BIAS = 0.0
    node.SOLVER.MOMENTUM = 0.9
    node.SOLVER.STEPS = 30
    node.SOLVER.ACCUMULATE = 1
    node.SOLVER.VALIDATE_EVERY = 10
    node.SOLVER.SCHEDULER = CfgNode()
    node.SOLVER.SCHEDULER.FACTOR = 0.1
    node.SOLVER.SCHEDULER.PATIENCE = 2
    node.AMP = CfgNode()
    node.AMP.ENABLED = False
    node.AMP.DTYPE = "auto"
    node.DDP = CfgNode()
    node.DDP.NPROC = None
    node.DDP.BACKEND = "auto"
    node.DDP.SYNC_BN = False
    node.DDP.FIND_UNUSED = False
    node.DDP.MAX_RESTARTS = 1
    node.DDP.STALL = 60.0
    node.DDP.DEADLINE = 600.0
    node.OUTPUT_DIR = None


def load(file: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> CfgNode:
    """Defaults, then the YAML file, then the overrides by dotted name. Errors name the key."""
    node = defaults()
    if file is not None:
        _merge_file(node, Path(file))
    for key, value in (overrides or {}).items():
        _merge(node, [key, str(value)], key)
    node.freeze()
    return node


def completed(node: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """A copy in which the settings named (`{"SEED": 1}`) have these values: what other options said."""
    copy = node.clone()
    copy.defrost()
    for key, value in values.items():
        *path, name = key.split(".")
        held: Any = copy
        for part in path:
            held = held[part]
        held[name] = CfgNode(dict(value), new_allowed=True) if isinstance(value, Mapping) else value
    copy.freeze()
    return copy


def dump(node: CfgNode) -> str:
    """All settings as YAML, which `parse` reads."""
    import yaml

    return yaml.safe_dump(_plain(node), sort_keys=False)


def summary(node: CfgNode) -> str:
    """All settings as YAML, one line for each node at the top."""
    import yaml

    lines = [yaml.safe_dump({key: value}, default_flow_style=True, sort_keys=False, width=10**6).strip()
             for key, value in _plain(node).items()]  # fmt: skip
    return "\n".join(line[1:-1] for line in lines)  # without the braces around


def parse(text: str) -> CfgNode:
    """Settings from what `dump` wrote."""
    import yaml

    node = defaults()
    node.merge_from_other_cfg(CfgNode(yaml.safe_load(text), new_allowed=True))
    node.freeze()
    return node


def _plain(node: Any) -> Any:
    return {key: _plain(value) for key, value in node.items()} if isinstance(node, CfgNode) else node


def _merge_file(node: CfgNode, file: Path) -> None:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InspectError(f"cannot read {file}: {error}", "name a YAML file") from error
    except yaml.YAMLError as error:
        line = str(error).replace("\n", " ")
        raise InspectError(f"{file} is not YAML: {line}", "mend it there") from error
    if content is None:
        return
    if not isinstance(content, dict):
        raise InspectError(f"{file} holds no settings", "write MODEL: {NAME: resnet18}")
    try:
        node.merge_from_other_cfg(CfgNode(_like(node, content), new_allowed=True))
    except (KeyError, ValueError, AssertionError) as error:
        raise _explained(node, error, str(file)) from error


def _like(node: Any, content: Any) -> Any:
    """`content` with whole numbers where `node` holds floats: people write 1 for 1.0."""
    if isinstance(content, dict) and isinstance(node, CfgNode):
        return {key: _like(node.get(key), value) for key, value in content.items()}
    whole = isinstance(content, int) and not isinstance(content, bool)
    return float(content) if whole and isinstance(node, float) else content


def _merge(node: CfgNode, pair: list[str], key: str) -> None:
    held: Any = node
    for name in key.split("."):
        held = held.get(name) if isinstance(held, CfgNode) else None
    if isinstance(held, float) and pair[1].strip().lstrip("+-").isdigit():
        pair = [pair[0], f"{pair[1].strip()}.0"]
    try:
        node.merge_from_list(pair)
    except (KeyError, ValueError, AssertionError, SyntaxError) as error:
        raise _explained(node, error, f"`settings=` {key}") from error


def _explained(node: CfgNode, error: Exception, place: str) -> InspectError:
    text = str(error).strip("'\"")
    names = keys(node)
    if "Non-existent" in text:
        unknown = text.rpartition(" ")[2]
        return InspectError(
            f"{place}: no setting is called {unknown}",
            nearest(unknown, names, f"there are: {', '.join(names)}"),
        )
    return InspectError(f"{place}: {text}", f"there are: {', '.join(names)}")


def keys(node: Any, prefix: str = "") -> list[str]:
    """The dotted names of all settings."""
    found = []
    for name, value in node.items():
        nested = keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else []
        found += nested or [prefix + name]
    return found
