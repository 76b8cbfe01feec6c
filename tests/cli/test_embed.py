"""`twotower embed` in processes that are killed, stopped, or run out of disk."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from tests.encode.bulk.collections import (
    embeds_of,
    picture,
    read_rows,
    write_folder,
    write_tar,
)

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def command(tiny_directory: Path) -> Callable[..., list[str]]:
    """A function that returns the command line for sources and options."""

    def make(*arguments: str | Path) -> list[str]:
        start = [sys.executable, "-m", "twotower", "embed", "--model", str(tiny_directory)]
        return [*start, *map(str, arguments)]

    return make


def run(line: list[str], code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, **options)
    assert done.returncode == code, done.stderr
    return done


@contextmanager
def started(line: list[str], out: Path, shards: int) -> Iterator[subprocess.Popen[str]]:
    """A process that has written a number of shards, and is not finished."""
    with subprocess.Popen(
        line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while len(list(out.glob("embeddings/0*.parquet"))) < shards:
            time.sleep(0.005)
            assert process.poll() is None, process.stderr.read()
        yield process


def test_kill_and_resume(command: Any, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", 400)
    expected, out = tmp_path / "expected", tmp_path / "out"
    options = ("--rows-per-shard", 10, "--batch-size", 4)
    run(command(photos, "--out", expected, *options))
    line = command(photos, "--out", out, *options)
    for shards in (3, 12):
        with started(line, out, shards) as process:
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    times = {path: path.stat().st_mtime_ns for path in out.glob("embeddings/0*.parquet")}
    assert 12 <= len(times) < 40
    done = run(line)
    assert done.stdout.startswith("Embedded 400 of 400 pictures into 40 shards")
    assert f", {len(times)} by earlier runs" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in times} == times  # never repeated
    assert not list(out.glob("*/.twotower-*"))
    rows, expected_rows = read_rows(out), read_rows(expected)
    assert [row["key"] for row in rows] == [f"{i:05d}.png" for i in range(400)]
    np.testing.assert_allclose(embeds_of(rows), embeds_of(expected_rows), atol=1e-6)
    for row, expected_row in zip(rows, expected_rows, strict=True):
        del row["embedding"], expected_row["embedding"]
    assert rows == expected_rows


def test_ctrl_c_loses_only_the_current_shard(command: Any, tmp_path: Path) -> None:
    photos, out = write_folder(tmp_path / "photos", 900), tmp_path / "out"
    line = command(photos, "--out", out, "--rows-per-shard", 20)
    with started(line, out, 3) as process:
        process.send_signal(signal.SIGSTOP)  # so that it does not finish meanwhile
        second = run(line, code=1)
        assert f"process {process.pid} is changing this folder; wait" in second.stderr
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130 and errors == "stopped\n"
    complete = len(list(out.glob("embeddings/0*.parquet")))
    assert 3 <= complete < 45
    assert f", {complete} by earlier runs" in run(line).stdout
    assert len(read_rows(out)) == 900


def test_a_full_disk(command: Any, tmp_path: Path) -> None:
    """The second shard exceeds the limit of a file's size; the next run has none."""
    tars = tmp_path / "tars"
    tars.mkdir()
    write_tar(tars / "0.tar", {"a.png": picture(0)})
    write_tar(tars / "1.tar", {f"{i}.png": picture(i) for i in range(400)})

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, resource.RLIM_INFINITY))

    line = command(tars, "--out", tmp_path / "out")
    failed = run(line, code=1, preexec_fn=limit)
    [message] = failed.stderr.splitlines()
    assert (
        "cannot be written (File too large); complete shards are kept; check the folder" in message
    )
    assert len(read_rows(tmp_path / "out")) == 1
    assert "Embedded 401 of 401 pictures into 2 shards" in run(line).stdout
    assert len(read_rows(tmp_path / "out")) == 401


def test_exit_codes(command: Any, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", 2)
    (photos / "broken.png").write_bytes(b"no picture")
    done = run(command(photos, "--out", tmp_path / "some"))
    assert done.stdout.startswith("Embedded 2 of 3 pictures into 1 shard of ")
    assert (
        done.stderr
        == "twotower: 1 item could not be embedded; the column `error` has the reasons\n"
    )
    done = run(command(photos / "broken.png", "--out", tmp_path / "none"), code=1)
    assert done.stdout.startswith("Embedded 0 of 1 picture")
    done = run(command(tmp_path / "missing", "--out", tmp_path / "x"), code=1)
    assert done.stderr == f"twotower: {tmp_path}/missing: no such file or folder; check the path\n"


def test_texts(command: Any, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a cat\na dog\n")
    done = run(command(tmp_path / "texts.txt", "--texts", "--out", tmp_path / "out"))
    assert done.stdout.startswith("Embedded 2 of 2 texts into 1 shard")
    assert [row["text"] for row in read_rows(tmp_path / "out")] == ["a cat", "a dog"]


def test_columns_exclude_each_other(command: Any, tmp_path: Path) -> None:
    done = run(command(tmp_path, "--out", "x", "--column", "a", "--text-column", "b"), code=2)
    assert "not allowed with argument" in done.stderr


def test_a_file_of_texts_needs_the_option(command: Any, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a cat\n")
    done = run(command(tmp_path / "texts.txt", "--out", tmp_path / "out"), code=1)
    assert "texts.txt: is no picture, tar or Parquet file; add --texts" in done.stderr
