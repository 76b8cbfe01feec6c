"""Packed selections: layout, manifest, datasheet, continuing, and training on them."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.pairs.filters.inputs import encoded, fetched, photograph, sentence, write_shard
from twotower.cli.main import main
from twotower.errors import PairsError
from twotower.pairs import packing
from twotower.pairs.datasheet import make_datasheet
from twotower.pairs.filters.run import filter_pairs
from twotower.pairs.filters.settings import FilterSettings
from twotower.pairs.manifest import Release, verify_manifest, write_manifest
from twotower.pairs.packing import pack_selection
from twotower.pairs.sources import open_source


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards with eleven good pictures and a bad one; some texts are removed."""
    samples = [
        fetched(
            f"{n:09d}",
            encoded(photograph(n)),
            [sentence(n), "image", sentence(100 + n)],
            url=f"https://host{n % 3}.example/{n}.jpg",
            caption_sources=["alt", "title", "figcaption"],
            consent={"robots": "allowed"},
        )
        for n in range(11)
    ]
    samples.insert(4, fetched("000000099", b"junk", [sentence(99)]))
    write_shard(tmp_path / "in", 0, samples[:7])
    write_shard(tmp_path / "in", 1, samples[7:])
    return tmp_path / "in"


def test_the_layout_is_that_of_img2dataset(shards: Path, tmp_path: Path) -> None:
    filter_pairs(shards, tmp_path / "kept", FilterSettings())
    counts = pack_selection(shards, tmp_path / "kept", tmp_path / "packed", 5)
    assert [count.samples for count in counts] == [5, 5, 1]
    assert [count.pairs for count in counts] == [10, 10, 2]
    names = [f"{n:05d}{end}" for n in range(3) for end in (".parquet", ".tar", "_stats.json")]
    visible = sorted(p.name for p in (tmp_path / "packed").iterdir() if p.name[0] != ".")
    assert visible == names
    with tarfile.open(tmp_path / "packed" / "00001.tar") as tar:
        assert tar.getnames()[:4] == ["000010.jpg", "000010.txt", "000010.json", "000011.jpg"]
        fields = json.load(tar.extractfile("000010.json"))  # type: ignore[arg-type]
    assert fields["captions"] == [sentence(5), sentence(105)]
    assert fields["caption_sources"] == ["alt", "figcaption"]
    assert fields["consent"] == {"robots": "allowed"}
    assert (fields["source_shard"], fields["source_key"]) == ("00000.tar", "000000005")
    table = pq.read_table(tmp_path / "packed" / "00001.parquet").to_pylist()
    assert [row["key"] for row in table] == [f"00001{n}" for n in range(5)]
    assert table[0]["url"] == "https://host2.example/5.jpg"
    assert json.loads(table[0]["other_fields"]) == {"consent": {"robots": "allowed"}}
    assert table[0]["sha256"] == hashlib.sha256(encoded(photograph(5))).hexdigest()


def test_pictures_and_texts_are_unchanged(shards: Path, tmp_path: Path) -> None:
    filter_pairs(shards, tmp_path / "kept", FilterSettings())
    pack_selection(shards, tmp_path / "kept", tmp_path / "packed")
    source = open_source(tmp_path / "packed")
    assert len(source) == 11
    for number in range(11):
        assert source[number].picture == encoded(photograph(number))
        assert source[number].captions == (sentence(number), sentence(100 + number))


def test_the_manifest_is_verified(shards: Path, tmp_path: Path) -> None:
    filter_pairs(shards, tmp_path / "kept", FilterSettings())
    packed = tmp_path / "packed"
    counts = pack_selection(shards, tmp_path / "kept", packed, 6)
    release = Release("birds", "A. Producer", "removals@example.org", "CC-BY-4.0")
    manifest = write_manifest(packed, tmp_path / "kept", counts, release)
    assert json.loads((packed / "manifest.json").read_text()) == manifest
    assert manifest["counts"] == {"pictures": 11, "pairs": 22, "shards": 2, "hosts": 3}
    assert manifest["sources"]["caption_sources"] == {"alt": 11, "figcaption": 11}
    funnel = manifest["filters"]["funnel"]
    assert funnel["pairs"] == 34
    assert funnel["kept"] == funnel["pairs"] - sum(row["pairs"] for row in funnel["removed"]) == 22
    for entry in manifest["shards"]:
        content = (packed / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)
    assert str(tmp_path) not in json.dumps(manifest)
    assert verify_manifest(packed) == []
    shard = packed / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    (packed / "00002.tar").write_bytes(b"")
    (packed / "00000.tar").unlink()
    faults = " ".join(verify_manifest(packed))
    for fault in ("00000.tar: missing", "00001.tar: differs", "00002.tar: not in the manifest"):
        assert fault in faults
    with pytest.raises(PairsError, match="cannot be read"):
        verify_manifest(tmp_path)


def test_the_datasheet_states_the_manifest(shards: Path, tmp_path: Path) -> None:
    filter_pairs(shards, tmp_path / "kept", FilterSettings(skipped=("contact",)))
    counts = pack_selection(shards, tmp_path / "kept", tmp_path / "packed", 6)
    release = Release("birds | bees", "", "removals@example.org", "CC-BY-4.0")
    manifest = write_manifest(tmp_path / "packed", tmp_path / "kept", counts, release)
    text = make_datasheet(manifest)
    for line in (
        "# Datasheet: birds | bees",
        "| Producer | not stated |",
        "| Component: datasets |",
        "11 pictures with 22 texts in 2 shards",
        "numbers were kept",
        "| text | boilerplate | 11 |",
        "| readable | picture cannot be read | 1 |",
        "Requests for removal: removals@example.org",
        "| host0.example | 4 |",
    ):
        assert line in text, line
    for title in ("Motivation", "Composition", "Uses", "Distribution", "Maintenance"):
        assert f"## {title}\n" in text


def test_a_stopped_packing_continues(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filter_pairs(shards, tmp_path / "kept", FilterSettings())
    pack_selection(shards, tmp_path / "kept", tmp_path / "whole", 2)
    for step in ("_write_stats", "write_parquet", "_add_sample"):
        original, count = getattr(packing, step), 0

        def stop(*arguments: Any, original: Any = original) -> None:
            nonlocal count
            count += 1
            if count == 3:
                raise KeyboardInterrupt
            original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(packing, step, stop)
            with pytest.raises(KeyboardInterrupt):
                pack_selection(shards, tmp_path / "kept", tmp_path / step, 2)
        pack_selection(shards, tmp_path / "kept", tmp_path / step, 2)
        for path in (tmp_path / "whole").glob("0*"):
            assert (tmp_path / step / path.name).read_bytes() == path.read_bytes()
        assert len(list((tmp_path / step).iterdir())) == len(list((tmp_path / "whole").iterdir()))


def test_a_folder_holds_one_packing(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="holds no complete filtering"):
        pack_selection(shards, tmp_path / "kept", tmp_path / "packed")
    filter_pairs(shards, tmp_path / "kept", FilterSettings())
    pack_selection(shards, tmp_path / "kept", tmp_path / "packed")
    with pytest.raises(PairsError, match="already holds files"):
        pack_selection(shards, tmp_path / "kept", tmp_path / "packed", 3)
    write_shard(shards, 0, [])
    with pytest.raises(PairsError, match="holds no pairs"):
        pack_selection(shards, tmp_path / "kept", tmp_path / "packed2")


def test_the_commands(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, packed = str(tmp_path / "kept"), str(tmp_path / "packed")
    (tmp_path / "queries.txt").write_text("the\n")
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    photograph(3).resize((160, 120)).save(evaluation / "x.png")
    command = ["pairs", "filter", str(shards), "--out", out, "--evaluation", str(evaluation)]
    command += ["--queries", str(tmp_path / "queries.txt"), "--skip", "placeholder"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "evaluation: picture of an evaluation set" in printed
    assert "kept: 20 pairs of 10 pictures" in printed
    page = (tmp_path / "kept" / "funnel.html").read_text()
    assert "boilerplate" in page
    assert "data:image/jpeg;base64," in page
    assert main(command) == 0  # complete: counted again from the record
    assert capsys.readouterr().out == printed
    assert main(["pairs", "pack", str(shards), packed, "--selection", out, "--per-shard", "4"]) == 0
    assert "Packed 10 pictures with 20 texts into 3 shards" in capsys.readouterr().out
    assert (tmp_path / "packed" / "datasheet.md").read_text().startswith("# Datasheet: packed")
    assert not (tmp_path / "packed" / ".packing.json").exists()
    assert main(["pairs", "stats", packed]) == 0
    assert "manifest   matches all shards" in capsys.readouterr().out
    (tmp_path / "packed" / "00000.tar").unlink()
    assert main(["pairs", "stats", packed]) == 1
    assert main(["pairs", "filter", str(shards), "--out", out, "--skip", "nothing"]) == 1
    assert "no such filter" in capsys.readouterr().err


def test_the_command_scores_with_a_model(
    shards: Path, tmp_path: Path, tiny_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "kept")
    command = ["pairs", "filter", str(shards), "--out", out, "--score", "--keep", "0.25"]
    assert main([*command, "--model", str(tiny_directory)]) == 0
    assert "kept: 6 pairs" in capsys.readouterr().out
    assert json.loads((tmp_path / "kept/filter/settings.json").read_text())["scorer"] == "tiny"


def test_training_reads_the_shards(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tests.tiny_models import tiny_config
    from twotower.train.config import DataConfig, OptimizerConfig, OutputConfig, TrainConfig
    from twotower.train.loop import train

    filter_pairs(shards, tmp_path / "kept", FilterSettings())
    pack_selection(shards, tmp_path / "kept", tmp_path / "packed", 6)
    config = TrainConfig(
        model=tiny_config(),
        data=DataConfig((str(tmp_path / "packed"),), batch_size=4),
        steps=2,
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=1),
        output=OutputConfig(log_every=1, save_every=100),
    )
    rows: list[dict[str, object]] = []
    train(config, tmp_path / "run", report=rows.append)
    assert [row["step"] for row in rows] == [0, 1]
