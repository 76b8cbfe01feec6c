"""The cut-offs of tags: what captions and names decide, and precisions on other sources."""

import numpy as np
import pytest

from tests.calibration.worlds import WordEncoder, captioned_source, named_source
from twotower.calibration.curves import LogisticCurve, TextCurves
from twotower.calibration.fit import measure_competitors
from twotower.tagging.fit_tags import (
    PRECISIONS,
    TagAnswers,
    captioned_answers,
    even_rows,
    measure_tags,
    named_answers,
    precision_cutoffs,
)

PEOPLE = ("a man and a dog", "a man", "the man walks")
BEACH = ("the beach", "a sandy beach", "waves at a beach")


def test_frequent_tags_are_measured_on_as_many_pictures_without_them() -> None:
    decided = {tag.name: answers for tag, answers in captioned_answers([PEOPLE] * 9 + [BEACH] * 3)}
    people = decided["person"]
    assert (people == 1).sum() == (people == 0).sum() == 3
    assert (people == -1).sum() == 6
    beach = decided["beach"]
    assert (beach == 1).sum() == 3 and (beach == 0).sum() == 9


def test_names_decide_tags_of_their_own_kinds() -> None:
    decided = {
        tag.name: answers.tolist() for tag, answers in named_answers([("terrier",), ("guitar",)])
    }
    assert decided["dog"] == [1, 0]
    assert decided["guitar"] == [0, 1]
    assert "person" not in decided, "may stand beside any dog"
    assert "blurry" not in decided and "screenshot" not in decided


def test_rows_are_evenly_spaced() -> None:
    assert even_rows(10, 4).tolist() == [0, 3, 6, 9]
    assert even_rows(3, 10).tolist() == [0, 1, 2]
    assert even_rows(0, 5).tolist() == [] and even_rows(5, 0).tolist() == []


def test_cutoffs_reach_the_precision_with_a_margin() -> None:
    random = np.random.default_rng(0)
    sources = []
    for _ in range(4):
        probabilities = random.uniform(0, 1, 50_000) ** 3
        sources.append(TagAnswers(probabilities, random.random(50_000) < probabilities))
    cutoffs = dict(precision_cutoffs(sources))
    probabilities = np.concatenate([source.probabilities for source in sources])
    answers = np.concatenate([source.answers for source in sources])
    for precision in (0.6, 0.7, 0.8, 0.9):
        share = answers[probabilities >= cutoffs[precision]].mean()
        assert precision < share < precision + 0.1
    assert sorted(cutoffs.values()) == list(cutoffs.values())
    assert set(cutoffs) <= set(PRECISIONS)


def test_a_few_right_tags_do_not_suffice_for_a_precision() -> None:
    few = TagAnswers(np.array([0.9, 0.8, 0.1, 0.1]), np.array([True, True, False, False]))
    assert max(precision for precision, _ in precision_cutoffs([few])) < 0.9
    wrong = TagAnswers(np.linspace(0, 1, 20), np.zeros(20, bool))
    assert precision_cutoffs([wrong]) == []
    assert precision_cutoffs([TagAnswers(np.zeros(0), np.zeros(0, bool))]) == []


@pytest.mark.parametrize("captioned", [True, False])
def test_tags_of_a_source_are_judged_by_the_curves(captioned: bool) -> None:
    encoder = WordEncoder()
    source = captioned_source(3, 100) if captioned else named_source(3, 100)
    competitors = measure_competitors(encoder, [source], np.random.default_rng(0))
    curve = LogisticCurve((0.3, 0.1, -2.0), 0.5)
    phrase = LogisticCurve((0.3, 0.1, 0.0, 0.0, 0.0, -2.0), 0.5)
    measured = measure_tags(encoder, TextCurves(competitors, curve, phrase), source)
    assert len(measured.answers) == len(measured.probabilities) > 1000
    right = measured.probabilities[measured.answers].mean()
    assert right > 10 * measured.probabilities[~measured.answers].mean()


def test_a_source_that_decides_no_tag_is_left_out() -> None:
    encoder = WordEncoder()
    source = named_source(3, 10)
    unnamed = type(source)(source.image_embeds, [()] * 10)
    competitors = measure_competitors(encoder, [source], np.random.default_rng(0))
    curves = TextCurves(competitors, LogisticCurve((1, 1, 0), 0.5), LogisticCurve((1,) * 6, 0.5))
    assert not measure_tags(encoder, curves, unnamed).answers.any()
