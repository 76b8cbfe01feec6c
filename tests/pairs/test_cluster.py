"""The steps on a real Ray cluster: the same results, also if workers are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("aiohttp")
pytest.importorskip("warcio")
psutil = pytest.importorskip("psutil")


from tests.pairs.fetching.shards import QUICK, read_rows, read_samples, write_candidates
from tests.pairs.filters.inputs import encoded, fetched, photograph, selected, sentence, write_shard
from tests.pairs.filters.test_run import BrightnessEncoder
from tests.pairs.web_files import write_pages
from tests.pairs.web_in_a_box import WebInABox
from twotower.errors import PairsError
from twotower.pairs.candidates import part_files, read_part
from twotower.pairs.cluster import Cluster, connect
from twotower.pairs.fetching.fetch import FetchSettings, fetch
from twotower.pairs.fetching.slices import (
    fetch_on_cluster,
    plan_slices,
    remove_from_slices,
    slice_number,
)
from twotower.pairs.fetching.stored_picture import PictureSettings
from twotower.pairs.filters.run import FilterInputs, filter_pairs
from twotower.pairs.filters.settings import FilterSettings
from twotower.pairs.web import collect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(540)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connect("local") as cluster:
        yield cluster


def worker_pids() -> list[int]:
    """Return the processes of this machine that run a task of the cluster."""
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if child.name().startswith("ray::_call")]


class Killer:
    """Kills workers with SIGKILL, each time a condition becomes true.

    Attributes:
        killed: the number of killed workers.
    """

    def __init__(self, conditions: list[Callable[[], bool]]) -> None:
        self.killed = 0
        self._conditions, self._ended = conditions, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        for condition in self._conditions:
            while not (condition() and (pids := worker_pids())):
                if self._ended.wait(0.01):
                    return
            os.kill(pids[0], signal.SIGKILL)
            self.killed += 1
            time.sleep(0.5)


def wait_a_moment(task: Path) -> int:
    """Write a file after a second, and return the process."""
    time.sleep(1)
    with task.open("a") as file:
        file.write("x")
    return os.getpid()


def fail(task: str) -> None:
    raise PairsError(task, "is broken", "mend it")


def test_a_task_of_a_killed_worker_is_repeated(cluster: Cluster, tmp_path: Path) -> None:
    tasks = [tmp_path / str(number) for number in range(4)]
    with Killer([lambda: True]) as killer:
        results = dict(cluster.map(wait_a_moment, tasks))
    assert killer.killed == 1
    assert set(results) == set(tasks)
    assert [task.read_text() for task in tasks] == ["x"] * 4


def test_errors_for_users_keep_their_type(cluster: Cluster) -> None:
    with pytest.raises(PairsError, match="shard: is broken; mend it"):
        list(cluster.map(fail, ["shard"]))


def candidates_of(folder: Path) -> list[list[Any]]:
    return [list(read_part(path)) for path in part_files(folder)]


def test_collect(cluster: Cluster, tmp_path: Path) -> None:
    sources = [tmp_path / f"{number}.warc.gz" for number in range(3)]
    for number, source in enumerate(sources):
        write_pages(source, 1500, start=1500 * number)
    expected = collect(sources, tmp_path / "here")
    with Killer([lambda: True, lambda: True]) as killer:
        collected = collect(sources, tmp_path / "there", cluster=cluster)
    assert killer.killed == 2
    assert collected == expected
    assert candidates_of(tmp_path / "there") == candidates_of(tmp_path / "here")
    damaged = tmp_path / "bad.parquet"
    damaged.write_bytes(b"no table")
    more = collect([*sources, damaged], tmp_path / "there", cluster=cluster)
    assert (len(more.failures), more.parts_kept) == (1, 3)


def test_hosts_stay_together() -> None:
    for host in ("a.test", "b.test:8080"):
        numbers = {slice_number(f"http://{host}/{i}.jpg", 7) for i in range(20)}
        assert len(numbers) == 1
    assert len({slice_number(f"data:image/png;base64,{i}", 7) for i in range(100)}) == 7


SETTINGS = FetchSettings(
    picture=PictureSettings("none", 100, False), per_shard=40, allow_private=True, **QUICK
)


def fetched_facts(rows: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    names = ("status", "reason", "sha256", "captions", "page_url")
    return {url: tuple(row[name] for name in names) for url, row in rows.items()}


def test_fetch(cluster: Cluster, tmp_path: Path) -> None:
    slow = replace(SETTINGS, host_rate=30.0)
    with WebInABox() as box:
        urls = [box.url(f"127.0.0.{1 + i % 9}", f"/picture/{i}.jpg") for i in range(600)]
        urls += [box.url(f"127.0.0.{1 + i % 9}", "/status/404", n=i) for i in range(30)]
        for number in range(3):
            write_candidates(tmp_path / "candidates", urls[number::3], number)
        fetch(tmp_path / "candidates", tmp_path / "here" / "shards", SETTINGS)
        before = len(box.requests)
        shards = tmp_path / "there" / "shards"
        limits = [before + 60, before + 150, before + 300]
        conditions = [lambda limit=limit: len(box.requests) > limit for limit in limits]
        with Killer(conditions) as killer:
            summary = fetch_on_cluster(tmp_path / "candidates", shards, slow, cluster)
        assert killer.killed == 3
        requests = len(box.requests)
        assert fetch_on_cluster(tmp_path / "candidates", shards, slow, cluster) == summary
        assert len(box.requests) == requests
    assert (summary.pictures, summary.reasons, summary.waiting) == (600, {"http_404": 30}, 0)
    here_rows, there_rows = read_rows(tmp_path / "here"), read_rows(tmp_path / "there")
    assert fetched_facts(there_rows) == fetched_facts(here_rows)
    keys = {row["key"] for row in there_rows.values() if row["status"] == "success"}
    assert len(keys) == 600
    assert set(read_samples(tmp_path / "there")) == keys
    slices = plan_slices(shards, 0)
    assert len(slices) == cluster.cpus
    for piece in slices:
        hosts = {url.split("/")[2] for url in read_rows(piece.folder)}
        hosts_elsewhere = {
            url.split("/")[2] for url in there_rows.keys() - read_rows(piece.folder).keys()
        }
        assert hosts and not hosts & hosts_elsewhere
    with pytest.raises(PairsError, match="continue with --ray"):
        fetch(tmp_path / "candidates", shards, SETTINGS)

    report = remove_from_slices(shards, urls[:2], ["127.0.0.5"])
    removed = {url for url in urls if "//127.0.0.5:" in url} | set(urls[:2])
    assert {removal.url for removal in report.removals} == removed
    assert set(read_rows(tmp_path / "there")) == set(urls) - removed
    assert not {there_rows[url]["key"] for url in removed} & set(read_samples(tmp_path / "there"))


def test_filter(cluster: Cluster, tmp_path: Path) -> None:
    for shard in range(4):  # a third of the pictures are copies of hosts_elsewhere
        samples = [
            fetched(f"{seed:09d}", encoded(photograph(seed % 80)), [sentence(seed)])
            for seed in range(30 * shard, 30 * shard + 30)
        ]
        write_shard(tmp_path / "in", shard, samples)
    settings = FilterSettings(score_share=0.5)
    inputs = FilterInputs(BrightnessEncoder, "brightness")
    expected = filter_pairs(tmp_path / "in", tmp_path / "here", settings, inputs)
    with Killer([lambda: True]) as killer:
        funnel = filter_pairs(
            tmp_path / "in", tmp_path / "there", settings, inputs, map_tasks=cluster.map
        )
    assert killer.killed == 1
    assert funnel == expected
    assert sum(expected.removed.values()) > 40
    assert selected(tmp_path / "there") == selected(tmp_path / "here")


def test_the_commands_start_a_cluster(tmp_path: Path) -> None:
    write_pages(tmp_path / "a.warc.gz", 5)
    command = [sys.executable, "-m", "twotower", "pairs", "collect", str(tmp_path / "a.warc.gz")]
    command += ["--out", str(tmp_path / "candidates"), "--ray", "local"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Collected 5 candidates from 5 pages" in done.stdout
    assert "usage" not in done.stderr.lower()  # of Ray's statistics


def test_an_address_without_a_cluster_is_an_error() -> None:
    command = [sys.executable, "-m", "twotower", "pairs", "collect", __file__, "--out", "x"]
    command += ["--ray", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "127.0.0.1:1: no Ray cluster" in done.stderr
