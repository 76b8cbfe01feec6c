"""Time the page in Chromium: typing to pictures, and scrolling through 100,000 pictures.

    python benchmarks/speed/page.py [--chromium PATH]

Typing: a query is typed into the page of examples/photos, and the time from its last key to the
first picture of the result on the screen is taken, thumbnails included; the median and the longest
of `QUERIES`. Scrolling: the index of examples/photos is copied into a library of 100,000 pictures,
whose files are hard links and whose dates are spread over fifteen years. The page is scrolled from
its top to its end by wheel and by its timeline. The longest task of the main thread comes from
Chromium's trace, as elapsed time and as time on the processor, which differ on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import twotower
from benchmarks.table import write_results
from twotower.index.index import Index

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples" / "photos"
PICTURES = 100_000
QUERIES = (
    "a dog", "a city at night", "fruit", "an old airplane", "the sea", "a red car", "food",
    "a flower", "snow", "an animal in the grass",
)  # fmt: skip
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
# From the last key to the frame in which the first picture of the new result is drawn.
WATCH = """
(expected) => {
  let start = 0;
  addEventListener("input", () => { start = performance.now(); }, {capture: true});
  window.painted = new Promise((resolve) => {
    const frame = () => {
      const view = document.querySelector(".photos");
      const isNew = start > 0 && view?.dataset.query === expected;
      if (isNew && view.querySelector(".tile.loaded, .state")) {
        requestAnimationFrame(() => resolve(performance.now() - start));
      } else {
        requestAnimationFrame(frame);
      }
    };
    requestAnimationFrame(frame);
  });
}
"""
COLUMNS = ("measurement", "pictures", "ms", "processor_ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    chromium = parser.parse_args().chromium
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "photos", Path(folder) / "large"
        for library in (small, large):
            shutil.copytree(PHOTOS, library, ignore=shutil.ignore_patterns("*.md", "*.csv"))
            twotower.Library(library, model="small").index()
        enlarge(large)
        with open_page(chromium) as page:
            with serve(small) as url:
                typing = time_typing(page, url)
            with serve(large) as url:
                tasks = [
                    (name, trace_longest(page, partial(action, page, url)))
                    for name, action in ACTIONS.items()
                ]
    pictures = len(list(PHOTOS.iterdir())) - 2  # without README.md and SOURCES.csv
    write_results(
        "page.csv",
        COLUMNS,
        [
            (
                "typing to the first picture, median",
                pictures,
                f"{statistics.median(typing):.0f}",
                "",
            ),
            ("typing to the first picture, longest", pictures, f"{max(typing):.0f}", ""),
            *(
                (f"longest task: {name}", PICTURES, f"{elapsed:.0f}", f"{processor:.0f}")
                for name, (elapsed, processor) in tasks
            ),
        ],
    )


# --- libraries -----------------------------------------------------------------------------------


def enlarge(root: Path) -> None:
    """Add hard links to the pictures of an indexed library, until it has `PICTURES`."""
    generator = random.Random(0)
    start = datetime.datetime(2010, 1, 1)
    with contextlib.closing(Index(root)) as index:
        records = [record for record in index.catalog.records() if record.error is None]
        embeds = index.vectors.get(np.array([record.id for record in records]))
        number = index.catalog.next_id()
        copies = []
        for copy in range(PICTURES - len(records)):
            record = records[copy % len(records)]
            folder = root / str(copy // 1000)
            folder.mkdir(exist_ok=True)
            path = f"{folder.name}/{copy}-{record.path}"
            os.link(root / record.path, root / path)
            taken = start + datetime.timedelta(minutes=generator.randrange(15 * 365 * 24 * 60))
            copies.append(
                replace(
                    record,
                    id=number + copy,
                    path=path,
                    taken=taken.isoformat(timespec="seconds"),
                    content_hash=number.to_bytes(8, "big") + copy.to_bytes(8, "big"),
                )
            )
        index.catalog.replace((), copies)
        rows = [copy % len(records) for copy in range(len(copies))]
        index.vectors.add(np.array([record.id for record in copies]), embeds[rows])


# --- the server and the browser ------------------------------------------------------------------


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Start `twotower serve` on a free port; yield its address once it is ready."""
    command = [sys.executable, "-m", "twotower", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen([*command, "--model", "small"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        match = re.search(r"http://\S+", process.stdout.readline())
        assert match, "the server did not start"
        url = match[0].rstrip("/")
        wait_until_ready(url)
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=60)


def wait_until_ready(url: str) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=10):
            return
        time.sleep(0.2)
    raise TimeoutError(url)


@contextlib.contextmanager
def open_page(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        process = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = process.new_page(viewport={"width": 1400, "height": 900})
        yield page
        process.close()


# --- measurements --------------------------------------------------------------------------------


def time_typing(page: Any, url: str) -> list[float]:
    """Return the milliseconds from the last key of a query to its first picture on the screen."""
    page.goto(url)
    page.wait_for_selector(".tile.loaded")
    times = []
    for query in ("warm up", *QUERIES):
        page.fill("#search", "")
        page.wait_for_selector(".photos[data-query='']")
        page.wait_for_timeout(500)
        page.evaluate(WATCH, query)
        page.locator("#search").press_sequentially(query, delay=60)
        times.append(page.evaluate("window.painted"))
    return times[1:]


def trace_longest(page: Any, action: Callable[[], None]) -> tuple[float, float]:
    """Return the longest task of the main thread: elapsed and processor milliseconds.

    They can be of two tasks: the longest by either clock.
    """
    browser = page.context.browser
    browser.start_tracing(page=page, categories=["toplevel", "__metadata"])
    action()
    page.wait_for_timeout(500)
    events = json.loads(browser.stop_tracing())["traceEvents"]
    threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        event
        for event in events
        if (event["pid"], event["tid"]) in threads and event["name"].endswith("RunTask")
    ]
    elapsed, processor = (
        max(event.get(key, 0) for event in tasks) / 1000 for key in ("dur", "tdur")
    )
    return elapsed, processor


def open_library(page: Any, url: str) -> None:
    page.goto(url)
    page.wait_for_selector(".tile.loaded")
    page.wait_for_timeout(3000)


def scroll_by_wheel(page: Any, url: str) -> None:
    page.mouse.move(600, 500)
    for step in (200, 600, 3000, 20_000, 100_000):
        for _ in range(20):
            page.mouse.wheel(0, step)
            page.wait_for_timeout(30)
        page.wait_for_selector(".tile.loaded")


def scroll_by_timeline(page: Any, url: str) -> None:
    box = page.locator(".timeline").bounding_box()
    x = box["x"] + box["width"] / 2
    page.mouse.move(x, box["y"] + 2)
    page.mouse.down()
    for step in range(100):
        page.mouse.move(x, box["y"] + step * (box["height"] - 4) / 99)
        page.wait_for_timeout(20)
    page.mouse.up()
    page.wait_for_selector(".tile.loaded")


def resize(page: Any, url: str) -> None:
    for width in (1200, 900, 500, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(1500)


ACTIONS: dict[str, Callable[[Any, str], None]] = {
    "open the page": open_library,
    "scroll by wheel": scroll_by_wheel,
    "scroll by timeline": scroll_by_timeline,
    "resize the window": resize,
}


if __name__ == "__main__":
    main()
