"""Measure the server's throughput and latency beside its encoder's own batch rate.

    python -m benchmarks.speed.serve [MODEL]

Texts, and JPEGs of 224 pixels, one in a request, from 1, 8 and 64 clients on this machine, whose
load generator shares its cores. The encoder's own rate is measured in the same run, in a process of
its own without a server, before and after: batches of 32 texts, and `Encoder.stream` over the bytes
of the same JPEGs. Latency at half load: 8 clients send at fixed times, at half of the rate that 64
clients reached. Writes results/serve.csv.
"""

from __future__ import annotations

import base64
import io
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from benchmarks.speed.http_load import Load, post, run_load
from benchmarks.table import ROOT, write_results
from tests.serve.running import running_server

SECONDS = 10.0
CLIENTS = (1, 8, 64)
COLUMNS = (
    "model",
    "input",
    "clients",
    "answers_per_second",
    "share_of_encoder",
    "p50_ms",
    "p99_ms",
    "not_answered_with_200",
)
PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
NOUNS = "dog cat car tree beach city bridge boat horse flower train mountain".split()
ADJECTIVES = "red small old happy tall wet bright dark quiet wild".split()
TEXTS = [
    f"a photo of a {adjective} {noun} beside a {neighbour}"
    for adjective in ADJECTIVES
    for noun in NOUNS
    for neighbour in NOUNS
]

# The encoder's own rate, in a process of its own: prints items a second of texts and of pictures.
ENCODER = """
import base64, json, sys, time
import twotower
job = json.load(sys.stdin)
model = twotower.load(job["model"])
pictures = [base64.b64decode(picture) for picture in job["pictures"]]
texts = job["texts"]
model.encode_text(texts[:32]); model.encode_image(pictures[:2])
started, done = time.perf_counter(), 0
while time.perf_counter() - started < job["seconds"]:
    start = done % (len(texts) - 32)
    model.encode_text(texts[start:start + 32]); done += 32
text_rate = done / (time.perf_counter() - started)
started, done = time.perf_counter(), 0
def endless():
    while time.perf_counter() - started < job["seconds"]:
        yield from pictures
for done, _ in enumerate(model.stream(endless()), 1): pass
print(json.dumps([text_rate, done / (time.perf_counter() - started)]))
"""


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "small"
    pictures = [small_jpeg(path) for path in PHOTOS]
    rates = [encoder_rates(model, pictures)]
    loads: dict[tuple[str, str], Load] = {}
    requests = {
        "text": lambda number: embed_request({"texts": [TEXTS[number % len(TEXTS)]]}),
        "JPEG": lambda number: embed_request({"images": [pictures[number % len(pictures)]]}),
    }
    with running_server(["--model", model]) as url:
        for kind, request in requests.items():
            loads.update(measure(url, kind, request))
    rates.append(encoder_rates(model, pictures))
    encoder_rate = {
        kind: statistics.mean(rate[position] for rate in rates)
        for position, kind in enumerate(requests)
    }
    rows = [
        (model, kind, "encoder alone", f"{rate:.1f}", "1.00", "", "", "")
        for kind, rate in encoder_rate.items()
    ]
    for (kind, clients), load in loads.items():
        share = f"{load.rate / encoder_rate[kind]:.2f}"
        failed = sum(count for status, count in load.statuses.items() if status != 200)
        times = (f"{load.percentile(50):.1f}", f"{load.percentile(99):.1f}")
        rows.append((model, kind, clients, f"{load.rate:.1f}", share, *times, str(failed)))
    write_results("serve.csv", COLUMNS, rows)


def measure(url: str, kind: str, request: Callable[[int], bytes]) -> dict[tuple[str, str], Load]:
    run_load(url, request, clients=8, seconds=3.0)
    loads = {
        (kind, str(clients)): run_load(url, request, clients=clients, seconds=SECONDS)
        for clients in CLIENTS
    }
    interval = 8 / (loads[kind, str(CLIENTS[-1])].rate / 2)
    half = run_load(url, request, clients=8, seconds=SECONDS, interval=interval)
    return {**loads, (kind, "half load"): half}


def embed_request(body: dict[str, list[str]]) -> bytes:
    return post("/api/embed", json.dumps({**body, "encoding": "base64"}).encode())


def small_jpeg(path: Path) -> str:
    """Return a picture of 224 x 224 as base64 of a JPEG."""
    content = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").resize((224, 224)).save(content, "JPEG", quality=90)
    return base64.b64encode(content.getvalue()).decode()


def encoder_rates(model: str, pictures: list[str]) -> list[float]:
    job = {"model": model, "pictures": pictures, "texts": TEXTS, "seconds": SECONDS / 2}
    output = subprocess.run(
        [sys.executable, "-c", ENCODER],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    rates: list[float] = json.loads(output)
    return rates


if __name__ == "__main__":
    main()
