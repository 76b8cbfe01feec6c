"""Make the pictures of the page in docs/: page-search.webp, page-phone.webp, page-lightbox.webp.

    python docs/page_screenshots.py [--chromium PATH]

Serves a copy of examples/photos with the small model and photographs the page in Chromium.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

import twotower

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "examples" / "photos"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
SECONDS = 300_000  # milliseconds that an answer may take
MAX_BYTES = 150_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--model", default="small")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        shutil.copytree(PHOTOS, photos, ignore=shutil.ignore_patterns("*.md", "*.csv"))
        twotower.Library(photos, model=arguments.model).index()
        command = [sys.executable, "-m", "twotower", "serve", str(photos), "--port", "0"]
        command += ["--model", arguments.model, "--allow-writes"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            match = re.search(r"http://\S+", server.stdout.readline())
            assert match, "the server did not start"
            take_all(arguments.chromium, match[0].rstrip("/"))
            server.terminate()


def take_all(chromium: str, url: str) -> None:
    from playwright.sync_api import sync_playwright

    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = open_page(browser, viewport={"width": 1280, "height": 800})
        show_search(page, url, '"an animal" - grass')
        take(page, "page-search.webp")
        page = open_page(browser, viewport={"width": 1280, "height": 800})
        show_heat_map(page, url)
        take(page, "page-lightbox.webp")
        page = open_page(browser, **phone, device_scale_factor=2, color_scheme="dark")
        show_search(page, url, "an animal")
        take(page, "page-phone.webp")
        browser.close()


def open_page(browser: Any, **options: Any) -> Any:
    context = browser.new_context(**options)
    context.set_default_timeout(SECONDS)
    return context.new_page()


def show_search(page: Any, url: str, query: str) -> None:
    page.goto(url)
    page.wait_for_selector(".tile.loaded")
    page.fill("#search", query)
    page.wait_for_function(
        "query => document.querySelector('.photos')?.dataset.query === query", arg=query
    )
    page.wait_for_selector(".chip .chip-text")
    page.locator("#search").blur()
    page.wait_for_function("!document.querySelector('.tile:not(.loaded)')")
    page.wait_for_timeout(600)


def show_heat_map(page: Any, url: str) -> None:
    page.goto(f"{url}/?q=dog")
    page.locator(".tile a").first.click()
    page.wait_for_selector(".lightbox .full.loaded")
    page.keyboard.press("i")
    page.keyboard.press("h")
    page.wait_for_selector(".lightbox .heat")
    page.keyboard.press("a")
    page.keyboard.type("what animal is this?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".details .answer-text")
    page.wait_for_selector(".details .tag")
    page.mouse.move(5, 790)
    page.wait_for_timeout(600)


def take(page: Any, name: str) -> None:
    """Write a screenshot in the best quality that keeps the file small."""
    with Image.open(io.BytesIO(page.screenshot())) as image:
        for quality in range(90, 30, -5):
            content = io.BytesIO()
            image.convert("RGB").save(content, "WEBP", quality=quality, method=6)
            if len(content.getvalue()) < MAX_BYTES:
                break
    (ROOT / "docs" / name).write_bytes(content.getvalue())


if __name__ == "__main__":
    main()
