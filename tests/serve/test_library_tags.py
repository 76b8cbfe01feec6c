"""Tags over HTTP: counts, review, verdicts that teach at once, sidecars; each with its undo."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.plain_http import call
from tests.serve.running import running_server


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(photos, tmp_path_factory.mktemp("tags") / "photos"))


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The address of a server of a copy of the photos that clients may tag."""
    with running_server([str(folder), "--allow-writes"]) as address:
        yield address


def picture(url: str, query: str, folder: str = "") -> int:
    return call(url, "/api/search", q=query, folder=folder).json()["hits"][0]["id"]


def tags_of(url: str, number: int) -> dict[str, dict]:
    facts: dict = {"tags_ready": False}
    while not facts["tags_ready"]:
        facts = call(url, f"/api/pictures/{number}").json()
    return {tag["tag"]: tag for tag in facts["tags"]}


def test_tags_are_counted(url: str) -> None:
    counts = {row["tag"]: row["pictures"] for row in call(url, "/api/tags").json()}
    assert counts["animal"] >= 5
    assert counts["animal|cat"] >= 2


def test_reviews_ask_about_uncertain_pictures(url: str) -> None:
    reviews = call(url, "/api/tags/review", limit=3).json()
    assert len(reviews) == 3
    for review in reviews:
        probabilities = [shown["probability"] for shown in review["pictures"]]
        doubts = [min(p, 1 - p) for p in probabilities]
        assert doubts == sorted(doubts, reverse=True)
        assert {"id", "path", "assigned"} <= review["pictures"][0].keys()


def test_a_verdict_decides_and_teaches_until_it_is_undone(url: str) -> None:
    cat, elephant = picture(url, "cat", "animals"), picture(url, "an elephant")
    before = tags_of(url, elephant)
    assert tags_of(url, cat)["animal|cat"]["assigned"]
    verdicts = [
        {"id": cat, "tag": "animal|cat", "accepted": False},
        {"id": elephant, "tag": "animal|cat", "accepted": True},
    ]
    kept = call(url, "/api/tags/verdicts", {"verdicts": verdicts}).json()
    assert kept["applied"] == 2
    tag = tags_of(url, cat)["animal|cat"]
    assert (tag["assigned"], tag["verdict"]) == (False, False)
    assert tag["probability"] < 0.01
    tag = tags_of(url, elephant)["animal|cat"]
    assert (tag["assigned"], tag["verdict"]) == (True, True)
    undone = call(url, "/api/tags/undo", {"undo": kept["undo"]})
    assert undone.json() == {"undone": 2}
    assert tags_of(url, elephant) == before
    assert tags_of(url, cat)["animal|cat"]["verdict"] is None
    assert call(url, "/api/tags/undo", {"undo": kept["undo"]}).status == 404


def test_undo_restores_an_earlier_verdict(url: str) -> None:
    dog = picture(url, "dog", "animals")

    def judge(accepted: bool | None) -> str:
        verdict = {"id": dog, "tag": "animal|dog", "accepted": accepted}
        return call(url, "/api/tags/verdicts", {"verdicts": [verdict]}).json()["undo"]

    judge(False)
    token = judge(None)
    assert tags_of(url, dog)["animal|dog"]["verdict"] is None
    call(url, "/api/tags/undo", {"undo": token})
    assert tags_of(url, dog)["animal|dog"]["verdict"] is False
    judge(None)


def test_unusable_verdicts_change_nothing(url: str) -> None:
    cat = picture(url, "cat", "animals")
    good = {"id": cat, "tag": "animal|cat", "accepted": False}
    for bad in ({**good, "tag": "no such tag"}, {**good, "id": 10**6}):
        assert call(url, "/api/tags/verdicts", {"verdicts": [good, bad]}).status == 400
    assert call(url, "/api/tags/verdicts", {"verdicts": []}).status == 422
    assert tags_of(url, cat)["animal|cat"]["verdict"] is None


def test_sidecars_are_written_and_undone(url: str, folder: Path) -> None:
    def sidecars() -> list[Path]:
        return sorted(folder.rglob("*.xmp"))

    planned = call(url, "/api/tags/sidecars", {"dry_run": True}).json()
    assert planned["dry_run"] is True
    assert planned["files"] > 20
    assert sidecars() == []
    written = call(url, "/api/tags/sidecars", {}).json()
    assert len(sidecars()) == written["files"] == planned["files"]
    undone = call(url, "/api/tags/sidecars/undo", {}).json()
    assert undone["restored"] == written["files"]
    assert sidecars() == []
