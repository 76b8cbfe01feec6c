import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from hypothesis import given
from hypothesis import strategies as st

import twotower
from tests.serve.plain_http import Reply, post_json, request
from tests.serve.sample_pictures import BAD_PICTURES, CAT
from twotower.arrays import normalize
from twotower.serve.neighbours import first_of_duplicates
from twotower.serve.server import Server
from twotower.serve.settings import ServerSettings

BODY = {"modality": "image", "num_images": 40, "indice_name": None}


def search(url: str, **fields: Any) -> Reply:
    return post_json(f"{url}/knn-service", BODY | fields)


def paths(reply: Reply) -> list[str]:
    assert reply.status == 200, reply.content
    return [row["image_path"] for row in reply.json()]


def test_text(eight_photos_url: str) -> None:
    rows = search(eight_photos_url, text="a photo of a dog").json()
    assert len(rows) == 8
    assert {row["image_path"] for row in rows[:2]} == {"dog.jpg", "copies/dog-2.jpg"}
    similarities = [row["similarity"] for row in rows]
    assert similarities == sorted(similarities, reverse=True)
    model = twotower.load("small")
    expected = model.encode_text("a photo of a dog") @ model.encode_image([CAT]).T
    [cat] = [row for row in rows if row["image_path"] == "cat.jpg"]
    assert cat["similarity"] == pytest.approx(float(expected[0, 0]), abs=1e-4)
    assert cat["caption"] == "cat.jpg" and (cat["width"], cat["height"]) == (640, 640)
    assert cat["url"] == f"{eight_photos_url}/api/pictures/{cat['id']}/original?view=1"


def test_priority_of_the_inputs(eight_photos_url: str) -> None:
    image = base64.b64encode(CAT).decode()
    [car] = twotower.load("small").encode_text(["a car"])
    embedding = (3 * car).tolist()
    fields = {"image": image, "image_url": "http://127.0.0.1/a.jpg", "embedding_input": embedding}
    assert paths(search(eight_photos_url, **fields, text="a bus"))[0] == "bus.jpg"
    assert "cat" in paths(search(eight_photos_url, **fields, text=""))[0]
    assert "cat" in paths(search(eight_photos_url, image=f"data:image/jpeg;base64,{image}"))[0]
    rows = search(eight_photos_url, embedding_input=embedding).json()
    assert rows[0]["image_path"] == "car.jpg"
    [cosine] = {row["similarity"] for row in rows if row["image_path"] == "cat.jpg"}
    unit = search(eight_photos_url, embedding_input=car.tolist()).json()
    assert [row["id"] for row in rows] == [row["id"] for row in unit]
    assert cosine == pytest.approx(
        float(car @ twotower.load("small").encode_image([CAT])[0]), abs=1e-4
    )


def test_metadata_in_the_first_rows_alone(eight_photos_url: str) -> None:
    rows = search(eight_photos_url, text="a cat", num_images=2, num_result_ids=5).json()
    assert len(rows) == 5 and all("image_path" in row for row in rows[:2])
    assert all(row.keys() == {"id", "similarity"} for row in rows[2:])
    assert search(eight_photos_url, text="a cat", num_images=3).json()[:2] == rows[:2]
    assert search(eight_photos_url, text="a cat", num_images=0).json() == []
    assert len(search(eight_photos_url, text="a cat", num_images=2.0).json()) == 2
    ids = [row["id"] for row in rows]
    answer = post_json(
        f"{eight_photos_url}/metadata", {"ids": [*ids, 10**9], "indice_name": "photos"}
    )
    assert [row["id"] for row in answer.json()] == ids
    facts = {name: rows[0][name] for name in answer.json()[0]["metadata"]}
    assert answer.json()[0]["metadata"] == facts
    assert post_json(f"{eight_photos_url}/metadata", {"ids": []}).json() == []


def test_deduplicate(eight_photos_url: str) -> None:
    rows = search(eight_photos_url, text="a cat", deduplicate=True).json()
    assert len(rows) == 6
    assert sum("cat" in row["image_path"] for row in rows) == 1


def test_request_of_the_page(eight_photos_url: str) -> None:
    """A body as clip-front sends it, below an address that ends with a slash."""
    fields = {
        "text": "",
        "image": base64.b64encode(CAT).decode(),
        "image_url": None,
        "embedding_input": None,
        "num_result_ids": 3000,
        "indice_name": "photos",
        "use_mclip": False,
        "use_safety_model": True,
        "use_violence_detector": True,
        "aesthetic_score": "",
        "aesthetic_weight": "0.5",
        "deduplicate": True,
    }
    body = json.dumps(BODY | fields).encode()
    for kind in ("text/plain;charset=UTF-8", "application/x-www-form-urlencoded"):
        reply = request(f"{eight_photos_url}//knn-service", body, {"Content-Type": kind})
        assert "cat" in paths(reply)[0]


def test_facts_of_the_server(eight_photos_url: str) -> None:
    assert request(f"{eight_photos_url}/indices-list").json() == ["photos"]
    assert request(f"{eight_photos_url}/config.json").json() == {
        "defaultBackend": f"{eight_photos_url}/",
        "defaultIndex": "",
        "urlColumn": "url",
    }
    assert request(f"{eight_photos_url}/metrics-summary").status == 200
    assert request(f"{eight_photos_url}/metrics").status == 200
    assert request(f"{eight_photos_url}/readyz").json()["models"] == ["twotower-small"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"text": ""}, 400),
        ({"text": 3}, 422),
        ({"text": "\ud800"}, 400),
        ({"text": "a", "modality": "text"}, 400),
        ({"text": "a", "modality": "sound"}, 422),
        ({"text": "a", "num_images": -1}, 422),
        ({"text": "a", "num_images": "40"}, 422),
        ({"text": "a", "num_images": True}, 422),
        ({"text": "a", "num_images": 4.5}, 422),
        ({"text": "a", "num_images": 5001}, 400),
        ({"text": "a", "deduplicate": "yes"}, 422),
        ({"embedding_input": ["1"] * 512}, 422),
        ({"text": "a", "num_result_ids": 10**30}, 400),
        ({"text": "a", "indice_name": "laion5B"}, 404),
        ({"image": "?"}, 400),
        ({"image": "http://127.0.0.1/a.jpg"}, 400),
        ({"image_url": "http://127.0.0.1/a.jpg"}, 400),
        ({"image_url": "file:///etc/passwd"}, 400),
        ({"image_url": "/etc/passwd"}, 400),
        ({"embedding_input": []}, 400),
        ({"embedding_input": [0.0] * 512}, 400),
        ({"embedding_input": [1.0] * 511}, 400),
        ({"embedding_input": [float("nan")] * 512}, 400),
        ({"embedding_input": [float("inf")] * 512}, 400),
        ({"embedding_input": [[1.0] * 512]}, 422),
        ({"embedding_input": [10**400] * 512}, 422),
    ],
)
def test_wrong_requests(eight_photos_url: str, fields: dict[str, Any], status: int) -> None:
    reply = search(eight_photos_url, **fields)
    assert reply.status == status, reply.content
    assert reply.json().keys() == {"message"}


def test_required_fields_and_other_bodies(eight_photos_url: str) -> None:
    for name in BODY:
        body = {"text": "a"} | {key: value for key, value in BODY.items() if key != name}
        assert post_json(f"{eight_photos_url}/knn-service", body).status == 422
    for path in ("knn-service", "metadata"):
        for content in (b"", b"[]", b"{", b"\xff"):
            reply = request(f"{eight_photos_url}/{path}", content)
            assert reply.status in (400, 422) and reply.json().keys() == {"message"}
    for ids in ("1", [1.5], ["1"], [2**63], [True], None, [1] * 5001):
        assert post_json(f"{eight_photos_url}/metadata", {"ids": ids}).status == 422
    assert post_json(f"{eight_photos_url}/metadata", {"ids": [1], "indice_name": "x"}).status == 404


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures(eight_photos_url: str, name: str) -> None:
    image = base64.b64encode(BAD_PICTURES[name]).decode()
    assert search(eight_photos_url, image=image).status == (422 if image else 400)
    assert request(f"{eight_photos_url}/readyz").status == 200


def test_without_a_library(models_url: str) -> None:
    for reply in (
        search(models_url, text="a cat"),
        post_json(f"{models_url}/metadata", {"ids": [1]}),
        request(f"{models_url}/indices-list"),
    ):
        assert reply.status == 404 and "no library" in reply.json()["message"]


@given(st.integers(0, 600), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_first_of_duplicates(count: int, clusters: int, seed: int) -> None:
    """Each cluster of near-duplicates keeps its first row, over several blocks."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, clusters, count)
    embeds = np.eye(clusters, dtype=np.float32)[labels]
    noise = 0.01 * generator.standard_normal(embeds.shape).astype(np.float32)
    kept = first_of_duplicates(normalize(embeds + noise), 0.8)
    assert kept.tolist() == sorted(np.unique(labels, return_index=True)[1].tolist())


def test_duplicates_are_linked_through_others() -> None:
    angles = np.array([0.0, 0.6, 2.0, 0.3], np.float32)
    embeds = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert first_of_duplicates(embeds, float(np.cos(0.4))).tolist() == [0, 2]


def test_the_model_of_the_library_is_served(eight_photos: Path) -> None:
    """Its vectors are searched with no other model, whichever is the default."""
    server = Server(ServerSettings(folder=str(eight_photos), models=("base",)))
    assert list(server.models.models) == ["twotower-base", "twotower-small"]
    assert server.models.default.name == "twotower-base"
    assert server.library is not None and server.library.model_source == "twotower-small"
    asyncio.run(server.stop())
