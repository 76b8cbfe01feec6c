import pytest

from twotower.pairs.directives import (
    denied_by_tags,
    denies_training,
    parse_reservation,
    response_refuses,
)


@pytest.mark.parametrize(
    ("value", "refuses"),
    [
        ("noai", True),
        ("NoImageAI", True),
        ("noindex, nofollow", True),
        ("none", True),
        ("all", False),
        ("index,follow", False),
        ("nofollow, max-image-preview:large", False),
        ("max-snippet:-1, noindex", True),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST", False),
        ("googlebot: noindex", False),
        ("googlebot: nofollow, noindex", False),
        ("twotower: noindex", True),
        ("*: noai", True),
        ("otherbot: noai, twotower: noindex", True),
        ("max-image-preview: large, noai", True),
        ("", False),
    ],
)
def test_robots_directives(value: str, refuses: bool) -> None:
    assert denied_by_tags([value]) is refuses
    assert denied_by_tags(["all", value]) is refuses


def test_the_agent_of_a_line_ends_with_the_line() -> None:
    assert denied_by_tags(["otherbot: noai", "noimageindex"])
    assert not denied_by_tags([])


@pytest.mark.parametrize(
    ("value", "refuses"),
    [
        ("train-ai=n", True),
        ("search=y, train-ai=n", True),
        ("train-genai=n", True),
        ("ai-train=no", True),
        ("train-ai=y", False),
        ("search=n", False),
        ("not-train-ai=n", False),
        ("train-ai=?0", True),
        ("train-genai=n, train-ai=y", True),
        ("Train-AI = N;x=1", True),
        ("nonsense", False),
        ("", False),
        ("bots=n", True),
        ("bots=n, train-ai=y", False),
        ("bots=n, ai=y", False),
        ("train-ai=maybe", False),
    ],
)
def test_content_usage(value: str, refuses: bool) -> None:
    assert denies_training(value) is refuses


def test_tdm_reservation() -> None:
    assert [parse_reservation(value) for value in (" 1 ", "0", "10")] == [1, 0, None]
    assert response_refuses([("TDM-Reservation", "1")])
    assert not response_refuses([("Content-Type", "noai")])
