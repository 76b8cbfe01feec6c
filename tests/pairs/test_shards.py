"""Packed shards keep every byte and can be read by webdataset."""

from pathlib import Path

import pytest
import webdataset

from tests.pairs.conftest import Write, picture, sample
from twotower.errors import PairsError
from twotower.pairs.shards import count_pairs, pack
from twotower.pairs.sources import open_source


def test_pack_and_read_again(write_tar: Write, tmp_path: Path) -> None:
    members = {k: v for i in range(7) for k, v in sample(f"k{i}", i, captions=2).items()}
    members |= {"w.webp": picture(kind="webp"), "w.txt": "Übung".encode()}
    source = open_source(write_tar("x.tar", members))
    assert pack(source, tmp_path / "out", pairs_per_shard=3) == []
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000000.tar", "000001.tar", "000002.tar"]
    packed = open_source(tmp_path / "out")
    assert len(packed) == len(source)
    for number in range(len(source)):
        assert packed[number].picture == source[number].picture
        assert packed[number].captions == source[number].captions


def test_webdataset_reads_our_shards(write_tar: Write, tmp_path: Path) -> None:
    source = open_source(write_tar("x.tar", sample("a", 1, captions=2) | sample("b", 2)))
    pack(source, tmp_path / "out")
    theirs = list(webdataset.WebDataset(str(tmp_path / "out" / "000000.tar"), shardshuffle=False))
    assert [sample_read["jpg"] for sample_read in theirs] == [source[0].picture, source[1].picture]
    assert [sample_read["txt"] for sample_read in theirs] == [b"caption 0 of a", b"caption 0 of b"]


def test_broken_pairs_are_left_out_and_named(write_tar: Write, tmp_path: Path) -> None:
    bad = {"bad.jpg": b"no picture", "bad.txt": b"x", "mute.jpg": picture()}
    source = open_source(write_tar("x.tar", sample("a") | bad | sample("z")))
    broken = pack(source, tmp_path / "out")
    assert ["bad: no picture" in line or "mute: has no caption" in line for line in broken] == [
        True,
        True,
    ]
    assert len(open_source(tmp_path / "out")) == 2
    with pytest.raises(PairsError, match="already holds shards"):
        pack(source, tmp_path / "out")


def test_stats(write_tar: Write) -> None:
    members = sample("a", captions=2) | {"b.png": picture(kind="png", size=(80, 20))}
    members |= {"b.txt": b"three words here", "c.jpg": b"broken", "c.txt": b"x"}
    stats = count_pairs(open_source(write_tar("x.tar", members)))
    assert (stats.pairs, stats.captions, len(stats.broken)) == (2, 3, 1)
    assert stats.formats == {"JPEG": 1, "PNG": 1}
    assert (stats.widths, stats.heights) == ([40, 80], [30, 20])
    assert stats.words == [4, 4, 3]
    assert "width      40 to 80, median 60, 90 % from 42 to 78" in list(stats.lines())
    assert "words      3 to 4, median 4, 90 % from 3 to 4" in list(stats.lines())


def test_stats_of_a_single_pair(write_tar: Write) -> None:
    lines = list(count_pairs(open_source(write_tar("x.tar", sample("a")))).lines())
    assert "width      40 to 40, median 40, 90 % from 40 to 40" in lines
