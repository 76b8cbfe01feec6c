"""The files of the page: what is served, how it is cached, and what they may refer to."""

import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("starlette")

from twotower.serve.page import FILES, page_routes

WEB = Path(__file__).parents[2] / "twotower" / "serve" / "web"
SCRIPTS = sorted(path.name for path in WEB.glob("*.js"))


def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {})) as answer:
            return answer.status, dict(answer.headers.items()), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers.items()), error.read()


def test_each_file_is_served_and_no_other() -> None:
    present = {path.name for path in WEB.iterdir() if path.is_file()}
    assert present == {"index.html", *FILES}
    paths = {route.path.rsplit("/", 1)[1] for route in page_routes()}
    assert paths == {"", *FILES}


def test_files_are_kept_for_good_and_the_page_is_revalidated(models_url: str) -> None:
    status, headers, page = get(f"{models_url}/")
    assert status == 200 and headers["cache-control"] == "no-cache"
    assert get(f"{models_url}/", {"If-None-Match": headers["etag"]})[0] == 304
    (script,) = re.findall(r'src="(/web/\w+/app\.js)"', page.decode())
    status, headers, content = get(models_url + script)
    assert status == 200 and content == (WEB / "app.js").read_bytes()
    assert headers["content-type"].startswith("text/javascript")
    assert "immutable" in headers["cache-control"]


@pytest.mark.parametrize(
    "name", ["", "..%2fapp.py", "..%2f..%2fpage.py", "app.js%00", "%2e%2e/page.py", "index.html"]
)
def test_no_other_address_is_answered(models_url: str, name: str) -> None:
    page = get(f"{models_url}/")[2].decode()
    (folder,) = set(re.findall(r'"(/web/\w+/)', page))
    assert get(models_url + folder + name)[0] == 404


def test_the_page_has_no_inline_script_or_style() -> None:
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|style=|\son\w+=", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))


@pytest.mark.parametrize("name", SCRIPTS)
def test_modules_import_files_that_are_served(name: str) -> None:
    source = (WEB / name).read_text(encoding="utf-8")
    for imported in re.findall(r'(?:from|import|URL\() ?"\./([^"]+)"', source):
        assert imported in FILES
    assert not re.search(r'setAttribute\("style"|innerHTML|insertAdjacentHTML|\beval\(', source)
    assert set(re.findall(r"https?://[^\s\"'`]+", source)) <= {"http://www.w3.org/2000/svg"}
