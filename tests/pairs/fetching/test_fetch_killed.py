"""`kill -9` at random points of `twotower pairs fetch` loses and doubles nothing."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")

from tests.pairs.fetching.shards import read_rows, read_samples, write_candidates
from tests.pairs.web_in_a_box import WebInABox, jpeg

KILLS = 20


def command(folder: Path) -> list[str]:
    arguments = "--allow-private --resize none --host-rate 60 --per-shard 70".split()
    return [
        *(sys.executable, "-m", "twotower", "pairs", "fetch", str(folder / "candidates")),
        *("--out", str(folder / "shards"), *arguments),
    ]


def finished_urls(folder: Path) -> set[str]:
    """Return the URLs that the ledger has as finished."""
    ledger = folder / "shards" / "ledger.sqlite"
    if not ledger.exists():
        return set()
    with closing(sqlite3.connect(ledger)) as database:
        tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'urls'").fetchall()
        query = "SELECT url FROM urls WHERE state = 1"
        return {url for (url,) in database.execute(query)} if tables else set()


def kill_at(process: subprocess.Popen[bytes], box: WebInABox, requests: int, delay: float) -> None:
    """Kill a process some time after the box has answered that many requests."""
    while process.poll() is None and len(box.requests) < requests:
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(540)
def test_killed_runs_lose_and_double_nothing(tmp_path: Path) -> None:
    chance = random.Random(33)
    with WebInABox() as box:
        urls = [
            box.url(f"127.0.0.{1 + number % 9}", f"/picture/{number}.jpg") for number in range(2500)
        ]
        urls += [box.url("127.0.0.1", "/status/404", n=number) for number in range(50)]
        write_candidates(tmp_path / "candidates", urls)
        running = 0
        for _ in range(KILLS):
            finished, visits = finished_urls(tmp_path), dict(box.visits)
            process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL)
            kill_at(process, box, len(box.requests) + chance.randint(0, 150), chance.random() / 2)
            running += process.returncode == -signal.SIGKILL
            for url in finished:  # not requested again
                path = url.removeprefix("http://").replace(f":{box.port}", "")
                assert box.visits[path] == visits[path]
        assert running == KILLS
        assert subprocess.run(command(tmp_path), stdout=subprocess.DEVNULL).returncode == 1
    rows, samples = read_rows(tmp_path), read_samples(tmp_path)
    assert set(rows) == set(urls)
    pictures = {url: row for url, row in rows.items() if row["status"] == "success"}
    assert len(pictures) == 2500
    assert set(samples) == {row["key"] for row in pictures.values()}
    for url, row in pictures.items():
        seed = zlib.crc32(url.partition(str(box.port))[2].encode())
        assert samples[row["key"]]["jpg"] == jpeg(seed)
