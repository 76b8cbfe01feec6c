"""Serve for minutes with bad input among the good: no 5xx, and memory that stays.

    python -m benchmarks.speed.serve_soak [SECONDS]

Eight clients send texts and pictures of many sizes; one request in twenty is bad (no picture, a
picture cut short, a bomb, broken JSON, an unknown model). The memory is that of the server and its
decoders (proportional set size), after a tenth of the time and at the end. Writes
results/serve_soak.csv.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import sys
import threading
import time
from pathlib import Path

import psutil
from PIL import Image

from benchmarks.speed.http_load import post, run_load
from benchmarks.speed.serve import PHOTOS, TEXTS
from benchmarks.table import write_results
from tests.serve.running import running_server
from tests.serve.test_decoding import png

COLUMNS = (
    "seconds",
    "requests",
    "status_200",
    "status_4xx",
    "status_5xx",
    "MB_after_a_tenth",
    "MB_at_the_end",
    "growth",
)
BAD_SHARE = 0.05
SIZES = (64, 224, 500, 1200)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    requests = make_requests(random.Random(0))
    memory: list[float] = []
    with running_server(["--model", "small"]) as url:
        server = server_process()
        timer = threading.Timer(seconds / 10, lambda: memory.append(megabytes(server)))
        timer.start()
        load = run_load(
            url, lambda number: requests[number % len(requests)], clients=8, seconds=seconds
        )
        time.sleep(2)
        memory.append(megabytes(server))
    before, after = memory
    families = [
        sum(count for status, count in load.statuses.items() if status // 100 == family)
        for family in (2, 4, 5)
    ]
    row = (f"{seconds:.0f}", len(load.seconds), *families, f"{before:.0f}", f"{after:.0f}")
    write_results("serve_soak.csv", COLUMNS, [(*row, f"{after / before - 1:+.1%}")])


def make_requests(generator: random.Random) -> list[bytes]:
    """Return 2000 requests in random order; one in twenty is bad."""
    pictures = [jpeg(path, size) for path in PHOTOS[:12] for size in SIZES]
    cut = base64.b64encode(base64.b64decode(pictures[5])[:300]).decode()
    bomb = base64.b64encode(png(20_000, 20_000)).decode()
    bad: list[dict[str, object]] = [
        {"images": ["AAAA"]},
        {"images": [cut]},
        {"images": [bomb]},
        {"texts": ["a" * 100_000]},
        {"texts": ["a cat"], "model": "unknown"},
        {"texts": 5},
    ]
    requests = []
    for _ in range(2000):
        if generator.random() < BAD_SHARE:
            body = generator.choice(bad)
        elif generator.random() < 0.5:
            body = {"texts": generator.sample(TEXTS, generator.randint(1, 8))}
        else:
            body = {"images": generator.sample(pictures, generator.randint(1, 3))}
        requests.append(post("/api/embed", json.dumps(body).encode()))
    return requests


def jpeg(path: Path, size: int) -> str:
    content = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").resize((size, size)).save(content, "JPEG", quality=90)
    return base64.b64encode(content.getvalue()).decode()


def server_process() -> psutil.Process:
    """Return the server, a child of this process."""
    (server,) = (
        child for child in psutil.Process(os.getpid()).children() if "serve" in child.cmdline()
    )
    return server


def megabytes(server: psutil.Process) -> float:
    processes = [server, *server.children(recursive=True)]
    return sum(process.memory_full_info().pss for process in processes) / 2**20


if __name__ == "__main__":
    main()
