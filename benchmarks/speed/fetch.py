"""Fetch 20 KB pictures from loopback: `twotower pairs fetch` and img2dataset 1.47, in turn.

    python benchmarks/speed/fetch.py [PICTURES] [--rounds N] [--img2dataset PYTHON]

The server is a process of its own that answers each URL with the same JPEG, from 50 addresses
127.0.0.x; it has no robots.txt. Both programs resize to 256 pixels on the shorter edge (JPEG,
quality 95) or keep originals, and write tars of 1,000 samples. Rates are of the time between the
first and the last picture that the server sent. Processor seconds are of all processes and threads
of a program, without those of a run over 10 pictures (its start); they depend less on the load of
the machine. The memory is the largest sum of the proportional set sizes of its processes. PYTHON is
an interpreter with img2dataset==1.47.0. Writes results/fetch.csv.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from benchmarks.table import ROOT, write_results

START_PICTURES, HOSTS, SIZE = 10, 50, 256
TWOTOWER = "twotower"
COLUMNS = (
    "program", "pictures_per_second", "pictures_per_processor_second", "peak_megabytes"
)  # fmt: skip


class Run(NamedTuple):
    """A run: seconds between the first and last picture, processor seconds, peak megabytes."""

    seconds: float
    processor_seconds: float
    megabytes: float


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", nargs="?", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2], help="of img2dataset")
    parser.add_argument("--img2dataset", metavar="PYTHON")
    arguments = parser.parse_args()
    with serve() as port:
        runs: dict[str, list[Run]] = {}
        for _ in range(arguments.rounds):
            for resize in (True, False):
                for name, command in programs(arguments, resize).items():
                    label = f"{name}, {'resized' if resize else 'originals'}"
                    start = run_program(command, port, START_PICTURES)
                    whole = run_program(command, port, arguments.pictures)
                    processor = whole.processor_seconds - start.processor_seconds
                    run = Run(whole.seconds, processor, whole.megabytes)
                    print(label, run, flush=True)
                    runs.setdefault(label, []).append(run)
    count = arguments.pictures
    write_results(
        "fetch.csv",
        COLUMNS,
        (
            (
                name,
                f"{count / statistics.median(run.seconds for run in values):.0f}",
                f"{count / statistics.median(run.processor_seconds for run in values):.0f}",
                f"{statistics.median(run.megabytes for run in values):.0f}",
            )
            for name, values in runs.items()
        ),
    )


def programs(arguments: argparse.Namespace, resize: bool) -> dict[str, list[str]]:
    """Return the commands; `{input}` and `{output}` are replaced."""
    ours = [sys.executable, "-m", "twotower", "pairs", "fetch", "{input}", "--out", "{output}"]
    ours += "--allow-private --host-rate 100000 --per-host 2 --requests 64 --per-shard 1000".split()
    ours += ["--resize", "shorter", "--size", str(SIZE)] if resize else ["--resize", "none"]
    commands = {TWOTOWER: ours}
    for processes in arguments.processes if arguments.img2dataset else ():
        peer = [arguments.img2dataset, "-c", "from img2dataset import main; main()"]
        peer += "--url_list {input} --input_format parquet --url_col url".split()
        peer += "--caption_col caption --output_format webdataset --output_folder {output}".split()
        peer += f"--processes_count {processes} --thread_count 32".split()
        peer += "--number_sample_per_shard 1000 --encode_quality 95".split()
        if resize:
            peer += f"--image_size {SIZE} --resize_mode keep_ratio".split()
            peer += "--resize_only_if_bigger True".split()
        else:
            peer += "--resize_mode no --disable_all_reencoding True".split()
        commands[f"img2dataset, {processes} process{'es' * (processes > 1)}"] = peer
    return commands


def run_program(command: list[str], port: int, count: int) -> Run:
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "candidates"
        source.mkdir()
        hosts = [f"127.0.0.{1 + number % HOSTS}" for number in range(count)]
        urls = [f"http://{host}:{port}/{number}.jpg" for number, host in enumerate(hosts)]
        table = pa.table({"url": urls, "caption": [f"picture {i}" for i in range(count)]})
        pyarrow.parquet.write_table(table, source / "part-00000.parquet")
        output = f"{scratch}/output"
        filled = [
            word.replace("{input}", str(source)).replace("{output}", output) for word in command
        ]
        ask_server(port)  # forgets the run before
        before = processor_seconds()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_ALBUMENTATIONS_UPDATE": "1"}
        if "img2dataset" in " ".join(command):
            del environment["PYTHONPATH"]
        process = subprocess.Popen(
            filled, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        megabytes = watch_memory(process)
        assert process.returncode == 0, filled
        sent, seconds = ask_server(port)
        assert sent == count, (sent, count)
        return Run(seconds, processor_seconds() - before, megabytes)


def watch_memory(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; return the peak of the memory of its tree in megabytes."""
    peak = 0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for member in (root, *children(root)):
            try:
                total += member.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(0.1)
    return peak / 1e6


def children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.Error:
        return []


def processor_seconds() -> float:
    """Return the processor seconds of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ask_server(port: int) -> tuple[int, float]:
    """Return the pictures sent and the seconds from the first to the last one, and reset both."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/statistics") as response:
        sent, seconds = json.loads(response.read())
        return sent, seconds


@contextmanager
def serve() -> Iterator[int]:
    """Run the server in a process; yields its port."""
    command = [sys.executable, __file__, "--serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


class PictureServer(asyncio.Protocol):
    """HTTP/1.1 with keep-alive: a picture at `/NUMBER.jpg`, nothing elsewhere."""

    picture = b""
    times: list[float] = []  # noqa: RUF012 - shared by all connections on purpose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            self.answer(head.split(b" ", 2)[1])
            if b"connection: close" in head.lower():
                self.transport.close()

    def answer(self, path: bytes) -> None:
        status, kind, body = b"404 Not Found", b"text/plain", b""
        if path.endswith(b".jpg"):
            status, kind, body = b"200 OK", b"image/jpeg", self.picture
            self.times.append(time.perf_counter())
        elif path == b"/statistics":
            seconds = self.times[-1] - self.times[0] if self.times else 0.0
            status, body = b"200 OK", json.dumps([len(self.times), seconds]).encode()
            self.times.clear()
        lines = (b"HTTP/1.1 " + status, b"Content-Type: " + kind, b"Content-Length: %d" % len(body))
        self.transport.write(b"\r\n".join((*lines, b"", body)))


async def run_server() -> None:
    PictureServer.picture = make_picture()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(PictureServer, "0.0.0.0", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def make_picture(size: int = 20_000) -> bytes:
    """Return a photograph as a JPEG of 20 kilobytes at quality 85."""
    with Image.open(sorted((ROOT / "examples" / "photos").glob("*.jpg"))[0]) as photo:
        image = photo.convert("RGB")
    content = b""
    for edge in range(300, 900, 10):
        file = io.BytesIO()
        scaled = image.copy()
        scaled = scaled.resize((edge, round(edge * image.height / image.width)))
        scaled.save(file, "JPEG", quality=85)
        content = file.getvalue()
        if len(content) >= size:
            break
    return content


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        asyncio.run(run_server())
    else:
        main()
