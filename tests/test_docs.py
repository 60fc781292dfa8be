"""The manual: every page is listed and made by its template, every command and option has its place, links
lead somewhere, and nothing of the machine that made it is in it."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from inspector.cli.main import COMMANDS, app

pytestmark = pytest.mark.once
ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
readme = runpy.run_path(str(ROOT / "benchmarks" / "readme.py"))


class _Site(yaml.SafeLoader):
    """YAML that leaves mkdocs' own tags alone."""


_Site.add_multi_constructor("!", lambda loader, suffix, node: None)


def listed(entries: Any) -> Iterator[str]:
    """The files that the navigation of mkdocs.yml names."""
    if isinstance(entries, str):
        yield entries
    for entry in entries if isinstance(entries, list) else []:
        yield from listed(next(iter(entry.values())) if isinstance(entry, dict) else entry)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def texts() -> list[Path]:
    return [README, *PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_navigation_lists_every_page_once_and_no_other() -> None:
    entries = list(listed(yaml.load((ROOT / "mkdocs.yml").read_text(), _Site)["nav"]))
    assert sorted(entries) == [str(page.relative_to(DOCS)) for page in PAGES]


def test_every_page_is_made_by_a_template() -> None:
    assert set(readme["pages"]([])) == {name(page) for page in [README, *PAGES]}


@pytest.mark.parametrize("page", [README, *PAGES], ids=name)
def test_a_page_is_what_its_template_makes(page: Path) -> None:
    """With the outputs that are stored: no command runs here."""
    (template,) = readme["pages"]([name(page)]).values()
    made = readme["page"](template, readme["Outputs"](stored_only=True), set())
    assert page.read_text() == made, f"run: python benchmarks/readme.py {name(page)}"


def test_without_a_stored_output_nothing_is_made_up() -> None:
    with pytest.raises(SystemExit, match="no output is stored of: inspect env --verbose"):
        readme["page"]("@@run env --verbose@@", readme["Outputs"](stored_only=True), set())


def test_the_commands_have_their_pages_and_the_list_has_them_all() -> None:
    assert {page.stem for page in (DOCS / "commands").glob("*.md")} == {*COMMANDS, "index"}
    assert all(f"({command}.md)" in (DOCS / "commands" / "index.md").read_text() for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_of_a_command_has_every_option(command: str) -> None:
    text = (DOCS / "commands" / f"{command}.md").read_text()
    table = text.partition("\n## Options\n")[2]
    program: Any = typer.main.get_command(app)
    for parameter in program.get_command(None, command).params:
        options = parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
        for option in [*options, *parameter.secondary_opts]:
            # a flag by itself, not as the beginning of another one
            assert re.search(rf"<code>[^<]*(?<![\w-]){re.escape(option)}(?![\w-])", table), option


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_of_a_command_shows_a_run(command: str) -> None:
    assert f"```console\n$ inspect {command}" in (DOCS / "commands" / f"{command}.md").read_text()


def test_the_readme_is_a_landing_page() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 250
    assert len([line for line in lines if line.startswith("$ inspect ")]) == 8


def test_the_readme_sets_up_with_two_commands() -> None:
    setup = (
        "python3 -m venv .venv && .venv/bin/pip install -q '.[timm,hf]' && .venv/bin/inspect profile resnet50"
    )
    assert f"```console\n{setup}\n```" in README.read_text()
    assert "```console\nbash .ci/run\n```" in README.read_text()


@pytest.mark.parametrize("page", texts(), ids=name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.is_file(), link
        if page in PAGES:
            assert DOCS in target.parents, f"{link} leaves the manual, which the site cannot"
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [*texts(), ROOT / "mkdocs.yml", readme["OUTPUTS"]], ids=name)
def test_nothing_of_this_machine_is_in_it(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"(?<![\w.~}])/(tmp|home|root|work|usr|opt|Users)/", text)
    assert not re.search(r"--(extra-)?index-url|\blocalhost\b|\.internal\b|://\d+\.", text)


def test_the_placeholder_is_explained_where_it_stands_and_stands_on_one_page() -> None:
    holding = [page for page in texts() if re.search(r"\bOWNER\b", page.read_text())]
    assert holding == [DOCS / "recipes" / "ci.md"]
    assert len(re.findall(r"`OWNER` .*stands for", holding[0].read_text())) == 1


@pytest.mark.parametrize(
    ("words", "before", "now", "equal"),
    [
        ("reconcile vit_b_16", "thop  330.3 ms  1.087 GiB", "thop  6.003 s   779.7 MiB", True),
        ("reconcile vit_b_16", "thop  11.29 G", "thop  11.28 G", False),
        ("bench resnet18", "FP32   1.632 s    0.00445  3.2e-07", "FP32  12.1 ms  0.4451  3.25e-7", True),
        ("bench resnet18", "ok  mode", "ok  mode\nnote  train/2/fp32: not stable after 3 steps", True),
        ("bench resnet18", "ok  same samples", "FAIL  same samples", False),
        ("env", "torch  2.15.0\ntimm  1.0", "torch  2.16.0", True),
        ("profile resnet50", "conv1     118.0 M", "conv1  118.1 M", False),
        ("profile resnet50", "bound  3.523 us", "bound  61.02 ns", True),
        ("profile resnet50", "op    calls\n----  -----", "op  calls\n--  -----", True),
    ],
)
def test_outputs_are_the_same_but_for_times(words: str, before: str, now: str, equal: bool) -> None:
    assert (readme["same"](words, before) == readme["same"](words, now)) is equal


def test_an_excerpt_says_where_it_was_cut() -> None:
    text = "a 1\n\nb 2\nc 3\n\nd 4\nb 5"
    assert readme["shown"](text, "^[abd]") == "a 1\n\nb 2\n...\nd 4\nb 5"
    assert readme["shown"](text, "^[cd]") == "a 1\n...\nc 3\n\nd 4"
