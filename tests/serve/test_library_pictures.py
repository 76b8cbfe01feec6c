"""Files, facts, heat maps and answers of single pictures over HTTP."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.serve.plain_http import call


@pytest.fixture(scope="module")
def cat(library_url: str) -> int:
    answer = call(library_url, "/api/search", q="cat", folder="animals").json()
    return answer["hits"][0]["id"]


def test_thumbnails_have_the_height_and_are_kept(library_url: str, photos: Path, cat: int) -> None:
    answer = call(library_url, f"/api/pictures/{cat}/thumbnail", height=200)
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (240, 240)
    kept = photos / ".twotower" / "thumbnails" / "240" / "0" / f"{cat}.jpg"
    assert kept.read_bytes() == answer.content
    assert call(library_url, f"/api/pictures/{cat}/thumbnail", height=0).status == 400


def test_thumbnails_are_revalidated_by_their_tag(library_url: str, cat: int) -> None:
    path = f"/api/pictures/{cat}/thumbnail"
    tag = call(library_url, path).headers["etag"]
    second = call(library_url, path, headers={"If-None-Match": tag})
    assert (second.status, second.content) == (304, b"")
    assert call(library_url, path, headers={"If-None-Match": '"other"'}).status == 200


def test_thumbnails_are_immutable_for_one_version_alone(library_url: str, cat: int) -> None:
    version = call(library_url, "/api/library").json()["version"]
    path = f"/api/pictures/{cat}/thumbnail"
    assert "immutable" in call(library_url, path, v=version).headers["cache-control"]
    assert "immutable" not in call(library_url, path).headers["cache-control"]
    assert "immutable" not in call(library_url, path, v="other").headers["cache-control"]


def test_originals_are_the_bytes_of_the_file(library_url: str, photos: Path, cat: int) -> None:
    content = (photos / "animals" / "cat.jpg").read_bytes()
    answer = call(library_url, f"/api/pictures/{cat}/original")
    assert answer.content == content
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-disposition"] == 'inline; filename="cat.jpg"'
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_originals_are_read_in_ranges(library_url: str, photos: Path, cat: int) -> None:
    content = (photos / "animals" / "cat.jpg").read_bytes()
    path = f"/api/pictures/{cat}/original"
    middle = call(library_url, path, headers={"Range": "bytes=10-19"})
    assert (middle.status, middle.content) == (206, content[10:20])
    assert middle.headers["content-range"] == f"bytes 10-19/{len(content)}"
    end = call(library_url, path, headers={"Range": "bytes=-7"})
    assert end.content == content[-7:]
    assert call(library_url, path, headers={"Range": f"bytes={len(content)}-"}).status == 416


def test_a_view_is_a_jpeg_of_any_format(library_url: str) -> None:
    hits = call(library_url, "/api/search", q="type:avif").json()["hits"]
    answer = call(library_url, f"/api/pictures/{hits[0]['id']}/original", view=1)
    assert Image.open(io.BytesIO(answer.content)).format == "JPEG"


def test_facts_have_tags_once_they_are_computed(library_url: str, cat: int) -> None:
    facts = {"tags_ready": False}
    while not facts["tags_ready"]:
        facts = call(library_url, f"/api/pictures/{cat}").json()
    assert facts["folder"] == "animals"
    assert facts["size_bytes"] > 1000
    assert {"animal|cat"} <= {tag["tag"] for tag in facts["tags"] if tag["assigned"]}
    assert all(tag["verdict"] is None for tag in facts["tags"])


def test_heat_maps_have_the_aspect_of_the_picture(library_url: str, cat: int) -> None:
    answer = call(library_url, f"/api/pictures/{cat}/heatmap", text="a cat")
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.mode) == ("PNG", "RGBA")
    assert image.width == image.height
    low, high = image.getchannel("A").getextrema()
    assert low == 0 < high
    assert float(answer.headers["x-probability"]) > 0.4
    assert call(library_url, f"/api/pictures/{cat}/heatmap").status == 400


def test_questions_about_a_picture_are_answered(library_url: str, cat: int) -> None:
    answer = call(library_url, f"/api/pictures/{cat}/ask", {"question": "is it a cat or a dog?"})
    assert answer.json()["answer"] == "cat"
    assert answer.json()["certain"] is True
    assert [reply["answer"] for reply in answer.json()["answers"]] == ["cat", "dog"]
    assert "zero-shot" in answer.json()["evidence"]
    refused = call(library_url, f"/api/pictures/{cat}/ask", {"question": "?"})
    assert refused.status == 422


def test_questions_about_the_library_are_answered(library_url: str) -> None:
    question = "how many of my pictures show an elephant?"
    answer = call(library_url, "/api/ask", {"question": question}).json()
    assert answer["answer"] == "1 of 51"
    low, expected, high = answer["count"]
    assert low <= expected <= high
    assert answer["hits"][0]["path"] == "animals/elephant.png"
    assert call(library_url, "/api/ask", {"question": "who are you?"}).status == 400
