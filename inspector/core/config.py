"""Settings from YAML files and by dotted name, merged over defaults (yacs). No code is executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from inspector.core import settings
from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.core.values import yaml_file


def defaults() -> CfgNode:
    """Every setting with its default. `MODEL.ARGS` and `INPUT` are the keywords `model_args` and `inputs`,
    `FREEZE.STAGES` is `stages`: one string of globs for each stage."""
    node = CfgNode(settings.defaults())
    node.MODEL.ARGS = CfgNode(new_allowed=True)
    return node


_NO_SETTING = (KeyError, ValueError, TypeError, AssertionError, AttributeError)
"""What yacs raises for a name or a value that it does not take."""
_LONGEST = 200
"""Characters of its message that are shown."""


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
    """A copy in which the settings named (`{"SEED": 1}`) have these values, which come from other options."""
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
    content = yaml_file(file, "correct it there")
    if content is None:
        return
    if not isinstance(content, dict):
        raise InspectError(f"{file} holds no settings", "write MODEL: {NAME: resnet18}")
    try:
        node.merge_from_other_cfg(CfgNode(_like(node, content), new_allowed=True))
    except _NO_SETTING as error:
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
    except (*_NO_SETTING, SyntaxError, MemoryError, RecursionError) as error:  # literal_eval
        raise _explained(node, error, f"`settings=` {key}") from error


def _explained(node: CfgNode, error: Exception, place: str) -> InspectError:
    text = " ".join((str(error) or type(error).__name__).strip("'\"").split())
    names = keys(node)
    if "Non-existent" in text:
        unknown = text.rpartition(" ")[2]
        group = unknown.partition(".")[0]
        near = [name for name in names if name.startswith(f"{group}.")]
        return InspectError(
            f"{place}: no setting is called {unknown}",
            nearest(unknown, names, f"there are: {_some(near, node)}"),
        )
    if mismatch := _MISMATCH.search(text):
        return _another_kind(node, mismatch["key"], mismatch["value"], place)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return InspectError(f"{place}: {text}", f"there are: {_some([], node)}")


_MISMATCH = re.compile(
    r"Type mismatch .* with values \((?:.* )?vs\. (?P<value>.*)\) for config key: (?P<key>[\w.]+)"
)
_KINDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text",
    list: "a list, such as ['conv1', 'layer1.*']",
}  # fmt: skip


def _another_kind(node: CfgNode, key: str, value: str, place: str) -> InspectError:
    """The value of a setting is of another kind than its default."""
    held: Any = node
    for name in key.split("."):
        held = held.get(name) if isinstance(held, CfgNode) else None
    value = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
    if isinstance(held, CfgNode):
        return InspectError(
            f"{place}: {key} is a group of settings", f"there are: {_some(keys(held, key + '.'), node)}"
        )
    wanted = _KINDS.get(type(held), type(held).__name__)
    where = place if key in place else f"{place}: {key}"
    return InspectError(
        f"{where}: {value!r} is not {wanted}", f"the default is `settings={{{key!r}: {held!r}}}`"
    )


def _some(names: list[str], node: CfgNode) -> str:
    """Settings to choose from: those of one group, else the groups."""
    return ", ".join(
        names or [f"{name}.*" if isinstance(value, CfgNode) else name for name, value in node.items()]
    )


def keys(node: Any, prefix: str = "") -> list[str]:
    """The dotted names of all settings."""
    names = []
    for name, value in node.items():
        nested = keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else []
        names += nested or [prefix + name]
    return names
