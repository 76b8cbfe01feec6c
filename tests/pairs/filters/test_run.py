"""Filterings of shards and candidates: reasons, counts, order, and continuing."""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pairs.filters.inputs import (
    encoded,
    fetched,
    photograph,
    reasons_by_key,
    selected,
    sentence,
    write_candidates,
    write_shard,
)
from twotower.errors import PairsError, PictureError
from twotower.pairs.filters import run
from twotower.pairs.filters.pictures import hash_pictures
from twotower.pairs.filters.queries import QueryList
from twotower.pairs.filters.run import Filtering, FilterInputs, filter_pairs
from twotower.pairs.filters.samples import KEPT_REASON, sample_pairs
from twotower.pairs.filters.settings import FilterSettings

SETTINGS = FilterSettings()


class BrightnessEncoder:
    """Scores a pair by the mean brightness of its picture, whatever its text."""

    def __init__(self) -> None:
        self.pictures = 0

    def encode_image(self, pictures: list[bytes]) -> Any:
        from twotower.inputs.pictures import open_picture

        self.pictures += len(pictures)
        levels = [np.asarray(open_picture(picture).convert("L")).mean() for picture in pictures]
        angles = np.array(levels) / 255
        return np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)

    def encode_text(self, texts: list[str]) -> Any:
        return np.tile(np.array([[1.0, 0.0]], np.float32), (len(texts), 1))


def picture(seed: int, size: tuple[int, int] = (320, 240)) -> bytes:
    return encoded(photograph(seed, size))


def test_each_removed_pair_has_its_reason(tmp_path: Path) -> None:
    logo = picture(50)
    blank = encoded(PIL.Image.new("RGB", (300, 300), "white"))
    small_copy = encoded(photograph(1).resize((240, 200)), 50)
    shards = [
        [
            fetched("000000000", picture(1), [sentence(1)]),
            fetched("000000001", picture(2), [sentence(2), "image", sentence(2).upper()]),
            fetched("000000002", picture(3), ["click here"]),
            fetched("000000003", b"no picture", [sentence(3)]),
            fetched("000000004", picture(4, (150, 150)), [sentence(4)]),
            fetched("000000005", picture(5), [f"{sentence(5)} mail me@example.org"]),
            fetched("000000006", picture(6), []),
            fetched("000000007", blank, [sentence(7)]),
        ],
        [
            fetched("000010000", small_copy, [sentence(10)]),
            fetched("000010001", picture(11), [sentence(11)]),
            *[fetched(f"00001{n:04d}", logo, [sentence(n)]) for n in range(20, 31)],
            *[fetched(f"00001{n:04d}", picture(n), ["welcome to my page"]) for n in range(60, 72)],
            fetched(
                "000019999", picture(4, (150, 150)), [sentence(99)], original_width=1500,
                original_height=1500,
            ),
        ],
    ]  # fmt: skip
    for number, samples in enumerate(shards):
        write_shard(tmp_path / "in", number, samples)
    evaluation = hash_pictures([photograph(11).resize((200, 150))])
    inputs = FilterInputs(evaluation=evaluation)
    funnel = filter_pairs(tmp_path / "in", tmp_path / "out", SETTINGS, inputs)
    reasons = reasons_by_key(tmp_path / "out")
    expected = {
        ("00000.tar", "000000000", 0): "",
        ("00000.tar", "000000001", 0): "",
        ("00000.tar", "000000001", 1): "text: boilerplate",
        ("00000.tar", "000000001", 2): "duplicate-text: same text and picture",
        ("00000.tar", "000000002", 0): "text: boilerplate",
        ("00000.tar", "000000003", 0): "readable: picture cannot be read",
        ("00000.tar", "000000004", 0): "size: too small",
        ("00000.tar", "000000005", 0): "contact: e-mail address",
        ("00000.tar", "000000006", 0): "readable: no caption",
        ("00000.tar", "000000007", 0): "size: blank",
        ("00001.tar", "000010000", 0): "duplicate-picture: better copy exists",
        ("00001.tar", "000010001", 0): "evaluation: picture of an evaluation set",
        ("00001.tar", "000019999", 0): "",
    }
    for n in range(20, 31):
        expected["00001.tar", f"00001{n:04d}", 0] = "placeholder: picture with many texts"
    repeated = [reasons.pop(("00001.tar", f"00001{n:04d}", 0)) for n in range(60, 72)]
    equal_texts = {reasons.pop(("00000.tar", "000000001", n)) for n in (0, 2)}
    assert equal_texts == {"", "duplicate-text: same text and picture"}
    for n in (0, 2):
        expected.pop(("00000.tar", "000000001", n))
    assert reasons == expected
    assert sorted(repeated) == [""] * 10 + ["duplicate-text: text of many pictures"] * 2
    assert funnel.pairs == len(expected) + 14
    assert funnel.kept == sum(row["kept"] for row in selected(tmp_path / "out"))
    assert funnel.samples == 2 + 10 + 1
    assert funnel.faults == []


@settings(max_examples=5, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),  # the picture; 5 is unreadable
            st.sampled_from([(320, 240), (100, 100), (260, 240)]),
            st.lists(
                st.sampled_from(["image", "a dog on a beach", "mail me@example.org now please"])
                | st.integers(0, 4).map(sentence),
                max_size=3,
            ),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_the_funnel_adds_up_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[Any],
    shards: int,
    order: random.Random,
) -> None:
    chosen = FilterSettings(text_copies=2, placeholder_texts=2, score_share=0.5, query_limit=2)
    inputs = FilterInputs(BrightnessEncoder, "test", {"": QueryList(["dog", "the"])})
    members = [
        fetched(f"{n:09d}", picture(seed, size) if seed < 5 else b"junk", captions)
        for n, (seed, size, captions) in enumerate(samples)
    ]
    kept = []
    for layout in (members, order.sample(members, len(members))):
        folder = tmp_path_factory.mktemp("funnel")
        for number in range(shards):
            write_shard(folder / "in", number, layout[number::shards])
        funnel = filter_pairs(folder / "in", folder / "out", chosen, inputs)
        rows = selected(folder / "out")
        assert funnel.pairs == len(rows) == sum(max(1, len(captions)) for *_, captions in samples)
        assert funnel.kept + sum(funnel.removed.values()) == funnel.pairs
        assert funnel.kept == sum(row["kept"] for row in rows)
        assert all(bool(row["reason"]) != row["kept"] for row in rows)
        for reason, count in funnel.removed.items():
            named = [row for row in rows if (row["filter"], row["reason"]) == reason]
            assert len(named) == count
        kept.append({(row["key"], row["caption"]) for row in rows if row["kept"]})
    assert kept[0] == kept[1]


def test_scores_keep_the_best_share(tmp_path: Path) -> None:
    images = [
        PIL.Image.eval(photograph(n), lambda level, n=n: level * (10 + n) // 20)
        for n in range(1, 11)
    ]
    samples = [fetched(f"{n:09d}", encoded(image), [sentence(n)]) for n, image in enumerate(images)]
    write_shard(tmp_path / "in", 0, samples[::2])
    write_shard(tmp_path / "in", 1, samples[1::2])
    encoder = BrightnessEncoder()
    funnel = filter_pairs(
        tmp_path / "in", tmp_path / "out", SETTINGS, FilterInputs(lambda: encoder, "brightness")
    )
    kept = [row["key"] for row in selected(tmp_path / "out") if row["kept"]]
    assert sorted(kept) == ["000000007", "000000008", "000000009"]
    assert funnel.kept == 3
    assert encoder.pictures == 10


def test_an_unreadable_picture_has_the_lowest_score(tmp_path: Path) -> None:
    class Strict(BrightnessEncoder):
        def encode_image(self, pictures: list[bytes]) -> Any:
            if dark in pictures:
                raise PictureError("<bytes>", "damaged", "replace it")
            return super().encode_image(pictures)

    dark = picture(1)
    samples = [
        fetched("000000000", dark, [sentence(1)]),
        fetched("000000001", picture(2), ["a b c d"]),
    ]
    write_shard(tmp_path / "in", 0, samples)
    inputs = FilterInputs(Strict, "strict")
    filter_pairs(tmp_path / "in", tmp_path / "out", FilterSettings(score_share=0.5), inputs)
    assert [row["kept"] for row in selected(tmp_path / "out")] == [False, True]


def test_candidates_become_candidates(tmp_path: Path) -> None:
    rows = [
        ("https://a.example/1.jpg", "a dog on a beach"),
        ("https://a.example/1.jpg", "A dog, on a beach"),
        ("https://a.example/2.jpg", "logo"),
        ("data:image/png;base64,AAAA", "a cat in a hat"),
        *[("https://a.example/spacer.gif", sentence(n)) for n in range(12)],
    ]
    write_candidates(tmp_path / "in", 0, rows[:3])
    write_candidates(tmp_path / "in", 1, rows[3:])
    write_candidates(tmp_path / "in", 2, [])
    funnel = filter_pairs(tmp_path / "in", tmp_path / "out", SETTINGS)
    counts = {reason.fault: count for reason, count in funnel.removed.items() if count}
    assert counts == {
        "boilerplate": 1,
        "same text and picture": 1,
        "picture with many texts": 12,
    }
    files = sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
    assert files == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    tables = [pq.read_table(tmp_path / "out" / name) for name in files]
    assert [len(table) for table in tables] == [1, 1, 0]
    assert tables[1]["url"].to_pylist() == ["data:image/png;base64,AAAA"]
    assert tables[0].schema.equals(pq.read_schema(tmp_path / "in" / "part-00000.parquet"))


def test_a_stopped_filtering_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        keys = range(4 * number, 4 * number + 4)
        samples = [fetched(f"{n:09d}", picture(n % 7), [sentence(n)]) for n in keys]
        write_shard(tmp_path / "in", number, samples)
    inputs = FilterInputs(BrightnessEncoder, "brightness")
    whole = filter_pairs(tmp_path / "in", tmp_path / "whole", SETTINGS, inputs)
    steps = ("write_shard_features", "write_scores", "write_parquet")
    for step in steps:
        for calls in (0, 1, 1):
            original, count = getattr(run, step), 0

            def stop(*arguments: Any, original: Any = original, calls: int = calls) -> None:
                nonlocal count
                if count == calls:
                    raise KeyboardInterrupt
                count += 1
                original(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(run, step, stop)
                with pytest.raises(KeyboardInterrupt):
                    filter_pairs(tmp_path / "in", tmp_path / "out", SETTINGS, inputs)
            assert not (tmp_path / "out" / "funnel.json").exists()
        done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
        assert filter_pairs(tmp_path / "in", tmp_path / "out", SETTINGS, inputs) == whole
        kept = {path for path, time in done.items() if path.stat().st_mtime_ns == time}
        assert {path for path in done if path.parent.name == "features"} <= kept
        assert selected(tmp_path / "out") == selected(tmp_path / "whole")
        shutil.rmtree(tmp_path / "out")


def test_a_complete_filtering_is_returned(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", 0, [fetched("000000000", picture(1), [sentence(1)])])
    funnel = filter_pairs(tmp_path / "in", tmp_path / "out", SETTINGS)
    assert filter_pairs(tmp_path / "in", tmp_path / "out", SETTINGS) == funnel
    with pytest.raises(PairsError, match="holds a filtering with other settings"):
        filter_pairs(tmp_path / "in", tmp_path / "out", FilterSettings(min_side=100))
    write_shard(tmp_path / "in", 1, [fetched("000010000", picture(2), [sentence(2)])])
    with pytest.raises(PairsError, match="holds a filtering with other files"):
        filter_pairs(tmp_path / "in", tmp_path / "out", SETTINGS)


def test_bad_files_are_faults(tmp_path: Path) -> None:
    good = write_shard(
        tmp_path / "in", 0,
        [fetched(f"{n:09d}", picture(n), [sentence(n)]) for n in range(3)],
    )  # fmt: skip
    (tmp_path / "in" / "00001.tar").write_bytes(good.read_bytes()[:-25_000])
    (tmp_path / "in" / "00002.tar").write_bytes(b"no tar" * 1000)
    write_shard(tmp_path / "in", 3, [])
    funnel = filter_pairs(tmp_path / "in", tmp_path / "out", SETTINGS)
    assert len(funnel.faults) == 2
    assert "cut short" in funnel.faults[0]
    assert "not a tar" in funnel.faults[1]
    assert funnel.pairs == 4
    with pytest.raises(PairsError, match="holds no tars"):
        filter_pairs(tmp_path / "missing", tmp_path / "out2", SETTINGS)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "part-00000.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(PairsError, match="cannot be read"):
        filter_pairs(tmp_path / "bad", tmp_path / "out3", SETTINGS)


def test_odd_fields_are_ignored(tmp_path: Path) -> None:
    samples = [
        fetched("000000000", picture(1), [sentence(1)], url="x", original_width="a"),
        fetched("000000001", picture(2), [sentence(2)], original_width=-5, original_height=9),
        {"000000002.jpg": picture(3), "000000002.txt": sentence(3).encode()},
        {
            "000000003.jpg": picture(4),
            "000000003.txt": sentence(4).encode(),
            "000000003.json": b"[1, 2]",
        },
    ]
    write_shard(tmp_path / "in", 0, samples)
    funnel = filter_pairs(tmp_path / "in", tmp_path / "out", SETTINGS)
    assert (funnel.pairs, funnel.kept) == (4, 4)


def test_queries_balance_and_report(tmp_path: Path) -> None:
    samples = [
        fetched(f"{n:09d}", picture(n), [f"{sentence(n)} {'with a dog' if n < 30 else 'owl'}"])
        for n in range(40)
    ]
    write_shard(tmp_path / "in", 0, samples)
    settings_used = FilterSettings(query_limit=6)
    inputs = FilterInputs(queries={"": QueryList(["dog", "with a dog"])})
    funnel = filter_pairs(tmp_path / "in", tmp_path / "out", settings_used, inputs)
    counts = {reason.fault: count for reason, count in funnel.removed.items() if count}
    assert counts["no query matches"] == 10
    assert 5 <= counts["queries are frequent"] <= 28  # 30 pairs, each kept with 1 - 0.8 ** 2
    assert funnel.balance == {"": {"limit": 6, "tail_share": 0.0}}
    assert any("at most 6 matches" in line for line in funnel.lines())


def test_samples_of_each_reason(tmp_path: Path) -> None:
    samples = [fetched(f"{n:09d}", picture(n), [sentence(n), "image"]) for n in range(5)]
    samples.append(fetched("000000005", b"junk", [sentence(5)]))
    write_shard(tmp_path / "in", 0, samples)
    filter_pairs(tmp_path / "in", tmp_path / "out", SETTINGS)
    chosen = sample_pairs(Filtering(tmp_path / "in", tmp_path / "out"), 3)
    assert {tuple(reason): len(pairs) for reason, pairs in chosen.items()} == {
        ("readable", "picture cannot be read"): 1,
        ("text", "boilerplate"): 3,
        tuple(KEPT_REASON): 3,
    }
    assert {pair.caption for pair in chosen[KEPT_REASON]} <= {sentence(n) for n in range(5)}
    assert all(pair.picture for pair in chosen[KEPT_REASON])
