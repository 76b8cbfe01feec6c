"""Search over HTTP: pages, layout, timeline, what was understood, and uploads."""

import json
from pathlib import Path

import pytest

from tests.serve.plain_http import call


def search(url: str, q: str = "", **query: object) -> dict:
    answer = call(url, "/api/search", q=q, **query)
    assert answer.status == 200, answer.content
    return answer.json()


def test_the_library_is_described(library_url: str) -> None:
    facts = call(library_url, "/api/library").json()
    assert facts["name"] == "photos"
    assert facts["pictures"] == 51
    assert facts["failed"] == 0
    assert facts["model"] == "twotower-small"
    assert facts["exists"] is True
    assert facts["writable"] is False
    assert facts["needs_key"] is False
    assert facts["indexing"]["state"] == "idle"


def test_words_find_the_picture_that_shows_them(library_url: str) -> None:
    answer = search(library_url, "an elephant")
    best = answer["hits"][0]
    assert best["path"] == "animals/elephant.png"
    assert best["name"] == "elephant.png"
    assert best["match"] is True
    assert 0.4 < best["probability"] <= 1
    assert best["width"] > 0
    assert best["kind"] == "picture"
    assert answer["matches"] >= 1


def test_nothing_matches_what_is_in_no_picture(library_url: str) -> None:
    answer = search(library_url, "a purple submarine with yellow dots")
    assert answer["matches"] == 0
    assert answer["hits"] == []
    assert all(not hit["match"] for hit in answer["near"])


def test_what_was_understood_is_returned(library_url: str) -> None:
    answer = search(library_url, 'cat^2 -"dog" folder:animals camera:fuji')
    assert answer["understood"]["terms"] == [
        {"text": "cat", "picture": None, "upload": None, "negated": False, "weight": 2.0},
        {"text": "dog", "picture": None, "upload": None, "negated": True, "weight": 1.0},
    ]
    assert answer["understood"]["filters"] == [
        {"key": "folder", "value": "animals", "text": "folder:animals"},
        {"key": "camera", "value": "fuji", "text": "camera:fuji"},
    ]


def test_pages_of_all_pictures_cover_each_once(library_url: str) -> None:
    ids = [
        hit["id"]
        for offset in (0, 20, 40, 60)
        for hit in search(library_url, top=20, offset=offset)["hits"]
    ]
    assert len(ids) == len(set(ids)) == 51
    assert ids == call(library_url, "/api/layout").json()["ids"]


def test_copies_are_grouped_on_request(library_url: str) -> None:
    alone = search(library_url, "a cat", group=0)
    grouped = search(library_url, "a cat", group=1)
    assert grouped["matches"] == alone["matches"]
    assert grouped["groups"] == alone["groups"] - 1
    (copies,) = [hit["copies"] for hit in grouped["hits"] if hit["copies"]]
    assert copies[0] in [hit["id"] for hit in alone["hits"]]


def test_all_lists_also_what_does_not_match(library_url: str) -> None:
    assert len(search(library_url, "cat", all=1, top=100)["hits"]) == 51


def test_layout_has_columns_of_equal_length_in_the_order_of_the_search(library_url: str) -> None:
    layout = call(library_url, "/api/layout", q="animal").json()
    page = search(library_url, "animal", top=100)
    assert layout["matches"] == page["matches"] == len(page["hits"])
    assert layout["ids"] == [hit["id"] for hit in (*page["hits"], *page["near"])]
    assert {len(layout[name]) for name in ("aspect", "month", "probability")} == {
        len(layout["ids"])
    }
    best = page["hits"][0]
    assert layout["aspect"][0] == pytest.approx(best["width"] / best["height"], abs=1e-3)
    assert layout["probability"][0] == pytest.approx(best["probability"])


def test_months_of_the_timeline_add_up(library_url: str) -> None:
    months = call(library_url, "/api/timeline").json()
    assert sum(month["count"] for month in months) == 51
    assert [month["offset"] for month in months] == [
        sum(month["count"] for month in months[:i]) for i in range(len(months))
    ]


def test_a_folder_limits_search_layout_and_timeline(library_url: str) -> None:
    assert len(search(library_url, folder="animals")["hits"]) == 6
    assert len(call(library_url, "/api/layout", folder="animals/").json()["ids"]) == 6
    assert call(library_url, "/api/timeline", folder="animals").json()[0]["count"] == 6
    paths = [hit["path"] for hit in search(library_url, "cat", folder="animals")["hits"]]
    assert paths == ["animals/cat.jpg"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"q": "-cat"}, "q"),
        ({"q": '"cat'}, "q"),
        ({"q": "after:never"}, "q"),
        ({"top": 0}, "top"),
        ({"offset": -1}, "offset"),
        ({"sort": "size"}, "sort"),
        ({"top": "many"}, "top"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_senseless_request_names_its_field(library_url: str, query: dict, field: str) -> None:
    answer = call(library_url, "/api/search", **query)
    assert answer.status == 400
    assert answer.json()["error"]["field"] == field


def test_similar_pictures_leave_out_the_picture_itself(library_url: str) -> None:
    (cat,) = search(library_url, "cat", folder="animals")["hits"]
    answer = call(library_url, f"/api/pictures/{cat['id']}/similar").json()
    assert [hit["path"] for hit in answer["hits"]] == ["copy of the cat.jpg"]
    assert answer["understood"]["terms"][0]["picture"] == "animals/cat.jpg"


def test_a_picture_of_the_library_is_searched_by_its_path(library_url: str) -> None:
    answer = search(library_url, "animals/cat.jpg")
    assert [hit["path"] for hit in answer["hits"]] == ["copy of the cat.jpg"]
    assert answer["understood"]["terms"][0]["picture"] == "animals/cat.jpg"


def test_an_upload_finds_its_like_and_combines_with_words(library_url: str, photos: Path) -> None:
    upload = call(library_url, "/api/uploads", (photos / "animals" / "cat.jpg").read_bytes())
    assert upload.status == 200
    assert (upload.json()["width"], upload.json()["height"]) == (640, 640)
    token = upload.json()["upload"]
    answer = search(library_url, upload=token)
    assert {hit["path"] for hit in answer["hits"]} >= {"animals/cat.jpg", "copy of the cat.jpg"}
    assert answer["understood"]["terms"] == [
        {"text": None, "picture": "upload", "upload": token, "negated": False, "weight": 1.0}
    ]
    without = search(library_url, "-cat", upload=token)
    assert not {hit["path"] for hit in without["hits"]} & {"animals/cat.jpg"}
    thumbnail = call(library_url, f"/api/uploads/{token}/thumbnail")
    assert thumbnail.content.startswith(b"\xff\xd8")


def test_uploads_that_cannot_be_used_are_refused(library_url: str) -> None:
    assert call(library_url, "/api/uploads", b"no picture").status == 422
    assert call(library_url, "/api/uploads", b"", method="POST").status == 400
    assert call(library_url, "/api/search", upload="unknown").status == 404
    assert call(library_url, "/api/uploads/unknown/thumbnail").status == 404


def test_near_duplicates_are_grouped(library_url: str) -> None:
    answer = call(library_url, "/api/duplicates").json()
    assert answer["total"] == len(answer["groups"]) == 1
    assert {hit["path"] for hit in answer["groups"][0]} == {
        "animals/cat.jpg",
        "copy of the cat.jpg",
    }
    assert call(library_url, "/api/duplicates", offset=1).json() == {"groups": [], "total": 1}


def test_a_server_without_a_library_says_so(models_url: str) -> None:
    for path in ("/api/library", "/api/search", "/api/pictures/1/thumbnail", "/api/index"):
        answer = call(models_url, path)
        assert answer.status == 404
        assert "twotower serve FOLDER" in answer.json()["error"]["message"]


def test_the_description_covers_the_library(library_url: str) -> None:
    description = call(library_url, "/openapi.json").json()
    assert "/api/search" in description["paths"]
    parameters = description["paths"]["/api/search"]["get"]["parameters"]
    assert {parameter["name"] for parameter in parameters} >= {"q", "top", "upload", "folder"}
    assert "202" in description["paths"]["/api/index"]["post"]["responses"]
    assert json.dumps(description).count("#/components/schemas/SearchAnswer")
