"""Indexing in the background: of a new folder, on request, and stopped by a shutdown."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.serve.calls import assert_equal_embeds, local_text, post
from tests.serve.conftest import PHOTOS
from tests.serve.plain_http import call
from tests.serve.running import running_server
from twotower.library import Library


def events(url: str) -> Iterator[dict]:
    """Yield the states that the server sends, until it closes the stream."""
    with urllib.request.urlopen(f"{url}/api/index/events", timeout=120) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def some_photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for path in sorted(PHOTOS.glob("*.jpg"))[:count]:
        shutil.copy2(path, folder)
    return folder


def test_a_new_folder_is_indexed_while_the_server_answers(tmp_path: Path) -> None:
    folder = some_photos(tmp_path / "photos", 12)
    with running_server([str(folder), "--model", "small"]) as url:
        assert call(url, "/api/search", q="cat").status == 200  # also before the first picture
        assert call(url, "/api/layout").status == 200
        counts = []
        for state in events(url):
            counts.append(state["done"])
            if state["state"] != "running" or state["stage"] == "Reading the vocabulary":
                break
        assert state["state"] in ("running", "idle"), state
        facts = call(url, "/api/library").json()
        assert (facts["exists"], facts["pictures"]) == (True, 12)
        assert facts["model"] == "twotower-small"
        assert call(url, "/api/search", q="a bee").json()["matches"] == 1


def test_indexing_on_request_finds_new_pictures(own_photos: Path) -> None:
    with running_server([str(own_photos), "--allow-writes"]) as url:
        assert call(url, "/api/index").json()["state"] == "idle"
        shutil.copy2(own_photos / "bee.jpg", own_photos / "second bee.jpg")
        (own_photos / "bus.jpg").unlink()
        started = call(url, "/api/index", {})
        assert (started.status, started.json()["state"]) == (202, "running")
        assert call(url, "/api/index", {}).status == 202  # runs once
        state = next(state for state in events(url) if state["state"] != "running")
        assert state["state"] == "idle"
        assert "1 removed" in state["message"]
        names = {hit["name"] for hit in call(url, "/api/search", top=100).json()["hits"]}
        assert "second bee.jpg" in names
        assert "bus.jpg" not in names


def test_embeddings_keep_their_model_when_the_library_changes_its_own(
    own_photos: Path, tiny_directory: Path
) -> None:
    """Clients store vectors, which must not mix with those of another model."""
    with running_server([str(own_photos)]) as url:
        library = Library(own_photos, model=tiny_directory)
        library.index()
        library.close()
        assert call(url, "/api/search", q="cat").status == 200
        assert call(url, "/api/library").json()["model"] == tiny_directory.name
        answer = post(f"{url}/v1/embeddings", {"input": "a cat"}).content
        assert answer["model"] == "twotower-small"
        assert_equal_embeds(answer["data"][0]["embedding"], local_text("a cat"))
    with running_server([str(own_photos)]) as url:
        answer = post(f"{url}/v1/embeddings", {"input": "a cat"}).content
        assert len(answer["data"][0]["embedding"]) == 32


def test_a_shutdown_stops_indexing_and_the_next_start_continues(tmp_path: Path) -> None:
    folder = some_photos(tmp_path / "photos", 40)
    options = [str(folder), "--model", "small"]
    with running_server(options) as url:
        next(state for state in events(url) if state["done"] >= 5)
    with running_server(options) as url:
        for state in events(url):
            if state["state"] != "running" or state["stage"] == "Reading the vocabulary":
                break
        assert call(url, "/api/library").json()["pictures"] == 40
        assert len(call(url, "/api/layout").json()["ids"]) == 40
