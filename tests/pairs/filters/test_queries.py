"""Balance by queries."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.errors import PairsError
from twotower.pairs.filters.queries import (
    QueryBalance,
    QueryList,
    chances,
    limit_of_share,
    read_queries,
    tail_share,
)


def test_queries_are_runs_of_whole_words() -> None:
    queries = QueryList(["dog", "New York", "york", "寿司", "  ", "Dog"])
    assert len(queries) == 4
    assert queries.match("A DOG in new  york!") == [0, 1, 2]
    assert queries.match("hotdogs") == []
    assert queries.match("東京の寿司屋") == [3]


def test_frequent_queries_are_thinned() -> None:
    balance = QueryBalance({"": QueryList(["dog", "otter"])})
    texts = ["a dog runs"] * 100 + ["an otter swims"] * 5 + ["an otter and a dog", "nothing"]
    languages = ["en"] * len(texts)
    balance.add(texts, languages)
    balance.decide(10)
    probabilities = balance.probabilities(texts, languages)
    assert probabilities[0] == pytest.approx(10 / 101)
    assert probabilities[100] == 1
    assert probabilities[105] == 1  # the rare query keeps it
    assert probabilities[106] == 0
    assert balance.balances[""].tail_share == pytest.approx(6 / 107)


def test_languages_have_the_tail_of_english() -> None:
    lists = {"en": QueryList(["dog", "cat", "otter"]), "de": QueryList(["hund", "katze"])}
    balance = QueryBalance(lists)
    counts = {"a dog": 60, "a cat": 30, "an otter": 10}
    german = {"ein hund": 18, "eine katze": 2}
    for language, texts in (("en", counts), ("de", german)):
        for text, count in texts.items():
            balance.add([text] * count, [language] * count)
    balance.decide(20)
    assert balance.balances["en"].tail_share == pytest.approx(0.1)
    assert balance.balances["de"].tail_share == pytest.approx(0.1)
    assert balance.balances["de"].limit == 18
    assert balance.probabilities(["un chien"], ["fr"]).tolist() == [0]
    assert balance.probabilities(["a dog"], ["en"])[0] == pytest.approx(20 / 60)


def test_limits_and_shares_by_hand() -> None:
    counts = np.array([1, 2, 3, 4, 0])
    assert tail_share(counts, 3) == pytest.approx(0.3)
    assert tail_share(counts, 100) == 1
    assert limit_of_share(counts, 0.3) == 3
    assert limit_of_share(counts, 1.0) == 5
    assert limit_of_share(np.zeros(3, np.int64), 0.5) == 1


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50), st.integers(0, 10**6))
def test_chances_are_shares(ranks: list[int], seed: int) -> None:
    values = chances(np.array(ranks, np.uint64), seed)
    assert ((values >= 0) & (values < 1)).all()
    assert (values[::-1] == chances(np.array(ranks[::-1], np.uint64), seed)).all()


def test_chances_are_uniform() -> None:
    values = chances(np.arange(20_000, dtype=np.uint64), 3)
    assert np.histogram(values, 10, (0, 1))[0] == pytest.approx(2000, abs=200)


def test_lists_of_languages(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("dog\nNew York\n")
    (tmp_path / "de.txt").write_text("Hund\n")
    lists = read_queries(tmp_path)
    assert {language: len(queries) for language, queries in lists.items()} == {"de": 1, "en": 2}
    assert list(read_queries(tmp_path / "en.txt")) == [""]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(PairsError, match="holds no queries"):
        read_queries(tmp_path / "empty.txt")
    with pytest.raises(PairsError, match="cannot be read"):
        read_queries(tmp_path / "missing.txt")
