"""Bulk embedding on a real Ray cluster: the rows of the plain run, also if workers are killed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray")
pytest.importorskip("aiohttp")
pytest.importorskip("warcio")
pytest.importorskip("psutil")

from tests.encode.bulk.collections import embeds_of, picture, read_rows, write_folder, write_tar
from tests.pairs.test_cluster import Killer
from twotower.encode.bulk.run import embed
from twotower.encode.bulk.settings import EmbedSettings
from twotower.pairs.cluster import Cluster, connect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(540)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connect("local") as cluster:
        yield cluster


def test_killed_workers_repeat_only_their_shards(
    cluster: Cluster, tiny_directory: Path, tmp_path: Path
) -> None:
    photos, tars = write_folder(tmp_path / "photos", 300), tmp_path / "tars"
    tars.mkdir()
    write_tar(tars / "0.tar", {f"{i}.png": picture(i) for i in range(80)})
    (tars / "1.tar").write_bytes(b"damaged" * 1000)
    sources, settings = [photos, tars], EmbedSettings(rows_per_shard=20)
    expected = embed(sources, tmp_path / "here", tiny_directory, settings)
    out = tmp_path / "there"

    def has_shards(count: int) -> bool:
        return len(list(out.glob("embeddings/0*.parquet"))) >= count

    with Killer([lambda: has_shards(2), lambda: has_shards(5)]) as killer:
        summary = embed(sources, out, tiny_directory, settings, cluster=cluster)
    assert killer.killed == 2
    assert (summary.rows, summary.failed, summary.shards) == (380, 0, 19)
    assert (expected.rows, expected.shards) == (380, 19)
    assert len(summary.faults) == len(expected.faults) == 1
    rows, expected_rows = read_rows(out), read_rows(tmp_path / "here")
    np.testing.assert_allclose(embeds_of(rows), embeds_of(expected_rows), atol=1e-6)
    for row, expected_row in zip(rows, expected_rows, strict=True):
        del row["embedding"], expected_row["embedding"]
    assert rows == expected_rows


def test_a_run_changes_to_a_cluster_and_back(
    cluster: Cluster, tiny_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"text {i}" for i in range(50)))
    settings = EmbedSettings(texts=True, rows_per_shard=10)
    out = tmp_path / "out"
    embed(tmp_path / "a.txt", out, tiny_directory, settings)
    expected = read_rows(out)
    for number in (1, 3):
        (out / "embeddings" / f"{number:05d}.parquet").unlink()
    summary = embed(tmp_path / "a.txt", out, tiny_directory, settings, cluster=cluster)
    assert (summary.rows, summary.earlier_shards) == (50, 3)
    rows = read_rows(out)
    assert [row["text"] for row in rows] == [row["text"] for row in expected]
    np.testing.assert_allclose(embeds_of(rows), embeds_of(expected), atol=1e-6)
