"""A headless Chromium of the system's, driven by Playwright. Without either, these tests skip and say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.handmade import trace  # noqa: F401

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class Visit:
    """An open page, and what went wrong or left the machine while it was open."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._hear: dict[str, Callable[[Any], None]] = {
            "console": lambda message: self._complain(message.type, message.text),
            "pageerror": lambda error: self.complaints.append(str(error)),
            "dialog": lambda dialog: self._dismiss(dialog),
            "request": lambda request: self.requests.append(request.url),
        }
        for event, hear in self._hear.items():
            page.on(event, hear)

    def _complain(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _dismiss(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def drawn(self) -> Visit:
        """Wait until the charts are there."""
        self.page.wait_for_selector(".boxes button", timeout=30_000)
        return self

    def leave(self) -> None:
        """Close the document, and hear no more of it."""
        self.page.goto("about:blank")
        for event, hear in self._hear.items():
            self.page.remove_listener(event, hear)


@pytest.fixture(scope="session")
def tab(browser: Any) -> Iterator[Any]:
    """One for all: a process of its own would cost each page more than its drawing. Pages store nothing."""
    context = browser.new_context(offline=True)
    context.set_default_timeout(30_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def visit(tab: Any) -> Iterator[Callable[..., Visit]]:
    """Open a file, from the disk and without a network; one at a time."""
    visits: list[Visit] = []

    def opened(file: Path, *, width: int = 1280, scheme: str = "light") -> Visit:
        assert not visits, "the page of before would be gone"
        tab.set_viewport_size({"width": width, "height": 900})
        tab.emulate_media(color_scheme=scheme)
        tab.mouse.move(0, 0)
        visits.append(Visit(tab))
        tab.goto(file.resolve().as_uri())
        return visits[0]

    yield opened
    for one in visits:
        one.leave()
