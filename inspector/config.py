"""Settings from YAML files and `--set KEY VALUE`, merged over defaults (yacs). No code is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from inspector.errors import InspectError
from inspector.models.naming import nearest


def defaults() -> CfgNode:
    """Every setting with its default. `MODEL.ARGS` and `INPUT` are what --model-arg and --input say,
    `FREEZE.STAGES` what --stage says: one string of globs for each stage."""
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
    return node


def load(file: Path | None = None, overrides: list[str] | None = None) -> CfgNode:
    """Defaults, then the YAML file, then `KEY=VALUE` strings. Errors name the key."""
    node = defaults()
    if file is not None:
        _merge_file(node, file)
    for text in overrides or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise InspectError(f"--set {text!r} has no value", "write --set KEY VALUE")
        _merge(node, [key, value], key)
    node.freeze()
    return node


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
        node.merge_from_other_cfg(CfgNode(content, new_allowed=True))
    except (KeyError, ValueError, AssertionError) as error:
        raise _explained(node, error, str(file)) from error


def _merge(node: CfgNode, pair: list[str], key: str) -> None:
    try:
        node.merge_from_list(pair)
    except (KeyError, ValueError, AssertionError, SyntaxError) as error:
        raise _explained(node, error, f"--set {key}") from error


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
