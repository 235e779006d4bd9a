"""Pages in headless Chromium: what a reader would see, and everything that went wrong on the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Opened:
    """A page that is open: Playwright's page, and complaints of its console, its scripts and the network."""

    page: Any
    problems: list[str] = field(default_factory=list)


@contextmanager
def browser() -> Iterator[Any]:
    """Start the system's Chromium; Playwright's own browsers are neither needed nor fetched."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@contextmanager
def opened(started: Any, path: Path, width: int = 1280, height: int = 800, **settings: Any) -> Iterator[Opened]:
    """Open a file and wait until all of it is there.

    A request to anywhere but the file itself and what is inside it is a problem, and is not let through.
    """
    context = started.new_context(viewport={"width": width, "height": height}, **settings)
    context.set_default_timeout(90_000)  # milliseconds: of a machine that is busy with other things
    page = context.new_page()
    result = Opened(page)

    def route(route: Any) -> None:
        url = route.request.url
        if url == path.as_uri() or url.startswith("data:"):
            route.continue_()
        else:
            result.problems.append(f"request: {url}")
            route.abort()

    page.route("**/*", route)
    page.on("console", lambda m: result.problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: result.problems.append(str(error)))
    page.goto(path.as_uri(), wait_until="load")
    page.evaluate("Promise.allSettled([...document.images].map((image) => image.decode()))")
    yield result
    context.close()
