"""Attacks on a served library: nothing outside its pictures is readable, and no client writes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.plain_http import call, raw_get
from tests.serve.running import running_server

SECRET = b"root:x:0:0: this must never be sent"
KEY = "key-of-the-test"
ODD_NAME = 'odd "name"\r\nX-Header: 1 \u00fc\u202e.jpg'


@pytest.fixture(scope="module")
def attacked(
    photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, int]]]:
    """A server whose files were exchanged after they were indexed; its URL, and ids by name."""
    root = tmp_path_factory.mktemp("attacked")
    (outside := root / "outside").mkdir()
    (outside / "secret.jpg").write_bytes(SECRET)
    (outside / "picture.jpg").write_bytes((photos / "car.jpg").read_bytes())
    (folder := root / "photos").mkdir()
    for name in ("bus.jpg", "beach.jpg", "bee.jpg", "boats.jpg", "bridge.jpg"):
        (folder / name).write_bytes((photos / name).read_bytes())
    (folder / ODD_NAME).write_bytes((photos / "castle.jpg").read_bytes())
    (folder / os.fsdecode(b"bytes \xff.jpg")).write_bytes((photos / "chair.jpg").read_bytes())
    (folder / "text.jpg").write_bytes(SECRET)
    (folder / "linked.jpg").symlink_to(outside / "picture.jpg")
    command = [sys.executable, "-m", "twotower", "index", str(folder), "--model", "small"]
    subprocess.run(command, check=False, capture_output=True)
    with running_server([str(folder)]) as url:
        hits = call(url, "/api/search").json()["hits"]
        ids = {hit["name"]: hit["id"] for hit in hits}
        for name in ("bus.jpg", "beach.jpg", "bee.jpg", "boats.jpg"):
            (folder / name).unlink()
        (folder / "bus.jpg").symlink_to(outside / "secret.jpg")
        (folder / "beach.jpg").symlink_to("/etc/passwd")
        os.mkfifo(folder / "bee.jpg")
        yield url, ids


@pytest.mark.parametrize("name", ["bus.jpg", "beach.jpg", "bee.jpg", "boats.jpg"])
@pytest.mark.parametrize("kind", ["original", "original?view=1", "thumbnail", "heatmap?text=a"])
def test_a_file_that_was_exchanged_is_not_sent(
    attacked: tuple[str, dict[str, int]], name: str, kind: str
) -> None:
    url, ids = attacked
    answer = call(url, f"/api/pictures/{ids[name]}/{kind}")
    assert answer.status == 410
    assert SECRET not in answer.content


def test_a_file_that_was_no_picture_has_no_id_to_read_it_by(
    attacked: tuple[str, dict[str, int]],
) -> None:
    url, ids = attacked
    assert "text.jpg" not in ids
    for number in range(30):
        answer = call(url, f"/api/pictures/{number}/original")
        assert SECRET not in answer.content
        assert answer.status in ((200, 410) if number in ids.values() else (404,))


def test_a_link_that_was_indexed_is_sent(attacked: tuple[str, dict[str, int]]) -> None:
    url, ids = attacked
    assert call(url, f"/api/pictures/{ids['linked.jpg']}/original").status == 200


def test_names_do_not_break_out_of_headers(attacked: tuple[str, dict[str, int]]) -> None:
    url, ids = attacked
    answer = call(url, f"/api/pictures/{ids[ODD_NAME]}/original")
    assert answer.status == 200
    assert "X-Header" not in answer.headers
    assert "filename*=" in answer.headers["content-disposition"]
    broken = next(number for name, number in ids.items() if name.startswith("bytes"))
    assert call(url, f"/api/pictures/{broken}/original").status == 200
    assert call(url, f"/api/pictures/{broken}").json()["name"] == "bytes \ufffd.jpg"


@pytest.mark.parametrize(
    "target",
    [
        "/api/pictures/../../../../etc/passwd",
        "/api/pictures/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/api/pictures/..%2f..%2f..%2fetc%2fpasswd/original",
        "/api/pictures/..%c0%af..%c0%afetc%c0%afpasswd/original",
        "/api/pictures/%252e%252e%252fetc%252fpasswd/original",
        "/api/pictures/１/original",
        "/api/pictures/%ef%bc%91/original",
        "/api/pictures/1%00/original",
        "/api/pictures/-1/original",
        "/api/pictures/1e3/original",
        "/api/pictures/99999999999999999999999/original",
        "/api/pictures//etc/passwd/original",
        "/api/uploads/..%2f..%2fetc%2fpasswd/thumbnail",
        "//etc/passwd",
        "/.twotower/catalog.sqlite",
    ],
)
def test_paths_lead_nowhere(attacked: tuple[str, dict[str, int]], target: str) -> None:
    answer = raw_get(attacked[0], target)
    assert answer.status in (400, 404), answer.content
    assert b"root:" not in answer.content


@pytest.mark.parametrize(
    "folder",
    ["..", "../outside", "/etc", "/", "photos/../../outside", "\x00", "..\\outside", ".twotower"],
)
def test_folders_are_those_of_the_catalog(
    attacked: tuple[str, dict[str, int]], folder: str
) -> None:
    answer = call(attacked[0], "/api/search", q="secret", folder=folder)
    if folder == "/":
        assert answer.status == 200  # the whole library
    else:
        assert answer.status == 404


@pytest.mark.parametrize("path", ["/api/search", "/api/layout", "/api/timeline"])
def test_queries_do_not_tell_which_files_exist(
    attacked: tuple[str, dict[str, int]], path: str, tmp_path: Path
) -> None:
    exists, missing = tmp_path / "exists.jpg", tmp_path / "missin.jpg"
    exists.write_bytes(b"content")
    messages = {
        call(attacked[0], path, q=str(file)).content.replace(file.name.encode(), b"")
        for file in (exists, missing)
    }
    assert len(messages) == 1
    for name in ("../outside/picture.jpg", "~/picture.jpg", "animals/../../outside/picture.jpg"):
        answer = call(attacked[0], path, q=name)
        assert answer.status == 400, answer.content


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/api/index", {}),
        ("/api/tags/verdicts", {"verdicts": [{"id": 1, "tag": "animal", "accepted": True}]}),
        ("/api/tags/undo", {"undo": "token"}),
        ("/api/tags/sidecars", {"dry_run": False}),
        ("/api/tags/sidecars/undo", {}),
    ],
)
def test_nothing_is_written_without_leave(library_url: str, path: str, content: dict) -> None:
    answer = call(library_url, path, content)
    assert answer.status == 403
    assert "--allow-writes" in answer.json()["error"]["message"]


def test_pages_of_other_origins_and_rebound_names_are_refused(library_url: str) -> None:
    foreign = call(library_url, "/api/library", headers={"Origin": "https://attacker.example"})
    assert foreign.status == 403
    for path in ("/api/library", "/mcp"):
        assert call(library_url, path, headers={"Host": "attacker.example"}).status == 421


@pytest.fixture(scope="module")
def locked_url(photos: Path) -> Iterator[str]:
    with running_server([str(photos)], {"TWOTOWER_SERVE_API_KEY": KEY}) as url:
        yield url


@pytest.mark.parametrize(
    "path",
    "/api/library /api/search /api/layout /api/timeline /api/pictures/1 /api/tags /api/duplicates "
    "/api/pictures/1/original /api/pictures/1/thumbnail /api/index /api/index/events /mcp".split(),
)
def test_every_endpoint_needs_the_key(locked_url: str, path: str) -> None:
    assert call(locked_url, path).status == 401
    assert call(locked_url, path, headers={"X-API-Key": KEY + "x"}).status == 401


def test_a_browser_shows_the_key_once(locked_url: str) -> None:
    assert call(locked_url, "/api/session", {"key": "wrong"}).status == 401
    opened = call(locked_url, "/api/session", {"key": KEY})
    assert opened.status == 204
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    headers = {"Cookie": cookie.partition(";")[0]}
    facts = call(locked_url, "/api/library", headers=headers)
    assert facts.status == 200
    assert facts.json()["needs_key"] is True
    assert call(locked_url, "/api/search", headers=headers).status == 200
