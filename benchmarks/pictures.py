"""The pictures of the README: the page of `inspect report`, and a terminal with `inspect profile`.

pip install -e '.[dev]'; apt-get install chromium
python benchmarks/pictures.py               writes docs/pictures/page.png and docs/pictures/terminal.svg
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import inspector

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
MODEL = "vit_b_16"
LIMIT = 150_000
"""Bytes of a picture: the README must load quickly."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH = 96
"""Columns of the terminal."""
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def page() -> None:
    """The top of the page."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    browser = next(path for name in BROWSERS if (path := shutil.which(name)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        file = inspector.page(MODEL).save(Path(folder) / "report.html")
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        view = opened.new_page(viewport={"width": 1100, "height": 940}, color_scheme="light")
        view.goto(file.as_uri())
        view.wait_for_selector(".boxes button")
        view.screenshot(path=Path(folder) / "page.png")
        opened.close()
        image = Image.open(Path(folder) / "page.png").convert("RGB")
        image.quantize(160, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            PICTURES / "page.png", optimize=True
        )


def terminal() -> None:
    """What `inspect profile` prints on a terminal, as SVG. Any font will do: nothing is fetched."""
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    console = Console(record=True, width=WIDTH, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.from_ansi(f"$ inspect profile {MODEL} --depth 1\n"))
    report = inspector.profile(MODEL, depth=1)
    console.print(Text.from_ansi(report.written("table", True, WIDTH)), end="")
    svg = console.export_svg(title=f"inspect profile {MODEL}", theme=MONOKAI, unique_id="terminal")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*Fira Code[^;]*;", f"font-family: {FONT};", svg)
    (PICTURES / "terminal.svg").write_text(svg, encoding="utf-8")


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    page()
    terminal()
    for file in sorted(PICTURES.iterdir()):
        print(f"{file.name}: {file.stat().st_size:,} bytes")
        if file.stat().st_size > LIMIT:
            raise SystemExit(f"{file.name} is larger than {LIMIT:,} bytes")


if __name__ == "__main__":
    main()
