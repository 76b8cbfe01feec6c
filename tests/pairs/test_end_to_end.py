"""From a crawl of a web in a box to a training run, by the command line."""

import csv
import gzip
import io
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("pyarrow")
pytest.importorskip("torch")
capture_http = pytest.importorskip("warcio.capture_http").capture_http

import pyarrow.parquet

from tests.pairs.web_in_a_box import JPEG, Document, WebInABox, encode, jpeg
from twotower.pairs.tars import TarPairs, find_tars

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
GALLERY, DRAWINGS, FAULTS, SLOW, CLOSED, REFUSING = (f"127.0.0.{n}" for n in range(1, 7))
HTML = {"Content-Type": "text/html; charset=utf-8"}
TOO_SMALL = ("fortune-cookie", "fruit-platter", "scissors")  # a side below 200 pixels

# Paths of `web_in_a_box.ROUTES` -> reason of the failure, or "".
FAULTY = {
    "/status/404": "http_404",
    "/gzip/whole": "",
    "/status/503": "http_503",
    "/chunked": "",
    "/loop/a": "redirect_loop",
    "/endless/0": "too_many_redirects",
    "/unnamed": "",
    "/huge/declared": "too_large",
    "/huge/endless": "too_large",
    "/kind/WEBP": "",
    "/text": "not_a_picture",
    "/svg": "not_a_picture",
    "/gzip/cut": "truncated",
    "/status/429?times=1&Retry-After=1": "",
    "/gzip/bomb": "too_large",
    "/encoding/br": "content_encoding",
    "/large/x.jpg": "",
    "/truncated/declared": "truncated",
    "/truncated/whole": "broken_picture",
    "/bomb": "broken_picture",
    "/empty": "empty",
}
UNRESPONSIVE = {"/slow": "timeout", "/drip": "timeout", "/garbage": "bad_response"}


@dataclass
class Site:
    """The pages of the box, and what must become of their pictures.

    Attributes:
        pages: their URLs.
        fetched: the reason of the failure of each URL that `collect` must find, or "".
        removed: the filter that must remove a picture.
    """

    box: WebInABox
    pages: list[str] = field(default_factory=list)
    fetched: dict[str, str] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)

    def add_page(self, host: str, markup: str, path: str = "/index.html", **fields: object) -> None:
        headers = {**HTML, **dict(fields.pop("headers", {}))}  # type: ignore[call-overload]
        body = f"<!DOCTYPE html><html lang=en><body>{markup}</body></html>".encode()
        if headers.get("Content-Encoding") == "gzip":
            body = gzip.compress(body)
        self.box.documents[host, path] = Document(body, headers=headers, **fields)  # type: ignore[arg-type]
        self.pages.append(self.box.url(host, path))

    def add_picture(self, host: str, path: str, content: bytes, **headers: str) -> None:
        self.box.documents[host, path] = Document(content, headers={**JPEG, **headers})

    def kept(self) -> set[str]:
        good = {url for url, reason in self.fetched.items() if not reason}
        return good - self.removed.keys()


def add_gallery(site: Site) -> None:
    """Add two pages with the example photographs, compressed and in chunks, and boilerplate."""
    with (PHOTOS / "SOURCES.csv").open(encoding="utf-8", newline="") as file:
        titles = {
            Path(row["file"]).stem: row["title"].removesuffix(".jpg")
            for row in csv.DictReader(file)
        }
    photos = sorted(PHOTOS.glob("*.jpg"))
    elements = []
    for photo in photos:
        name = photo.stem
        site.add_picture(GALLERY, f"/photos/{photo.name}", photo.read_bytes())
        url = site.box.url(GALLERY, f"/photos/{photo.name}")
        site.fetched[url] = ""
        if name in TOO_SMALL:
            site.removed[url] = "size"
        text = f"{name} in a picture called {titles[name]}"
        elements.append(f'<figure><img src="photos/{photo.name}" alt="{text}"></figure>')
    site.add_page(GALLERY, "".join(elements[:20]), headers={"Content-Encoding": "gzip"})
    boilerplate = '<img src="/logo.png" alt="Our fine logo"><img src="/no-text.jpg">'
    site.add_page(GALLERY, "".join(elements[20:]) + boilerplate, "/more.html", chunked=True)


def add_drawings(site: Site) -> None:
    """Add made pictures: good ones, a copy of a photograph, bad texts, and refused ones."""
    site.box.add(DRAWINGS, "/robots.txt", "User-agent: *\nDisallow: /private/")
    texts = {
        "waves": ("A field of smooth waves in many colours", "", ""),
        "clouds": ("Soft clouds of paint above a shore", "", ""),
        "mail": ("Ask painter@example.org for this work of art", "", "contact"),
        "private/plan": ("The secret plan of a building site", "robots", ""),
        "untrained": ("Stripes that no model may ever see", "x-robots-tag", ""),
    }
    elements = []
    for seed, (name, (text, failure, removal)) in enumerate(texts.items()):
        headers = {"X-Robots-Tag": "noai"} if failure == "x-robots-tag" else {}
        site.add_picture(DRAWINGS, f"/{name}.jpg", jpeg(seed, (320, 240)), **headers)
        url = site.box.url(DRAWINGS, f"/{name}.jpg")
        site.fetched[url] = failure
        if removal:
            site.removed[url] = removal
        elements.append(f'<img src="{name}.jpg" alt="{text}">')
    elements.append('<img src="waves.jpg?again" alt="IMG_1234.jpg">')  # a text that is left out
    file = io.BytesIO()
    with PIL.Image.open(PHOTOS / "cat.jpg") as photo:
        photo.resize((400, 400)).save(file, "JPEG", quality=60)
    site.add_picture(DRAWINGS, "/copy.jpg", file.getvalue())
    url = site.box.url(DRAWINGS, "/copy.jpg")
    site.fetched[url], site.removed[url] = "", "duplicate-picture"
    elements.append('<img src="copy.jpg" alt="Somebody took our cat and made it smaller">')
    moved = site.box.url(DRAWINGS, "/moved.png")
    site.add_picture(GALLERY, "/moved/here.png", encode(77, (300, 300), "PNG"))
    site.box.add(
        DRAWINGS, "/moved.png", status=301, Location=site.box.url(GALLERY, "/moved/here.png")
    )
    site.fetched[moved] = ""
    elements.append('<img src="moved.png" alt="A square that has moved to another host">')
    site.add_page(DRAWINGS, "".join(elements))


def add_faults(site: Site) -> None:
    """Add hosts with every fault, one that is slow, one that is closed, and a page that refuses."""
    for host, paths in ((FAULTS, FAULTY), (SLOW, UNRESPONSIVE)):
        elements = []
        for path, reason in paths.items():
            url = site.box.url(host, path)
            site.fetched[url] = reason
            if not reason and path != "/large/x.jpg":
                site.removed[url] = "size"  # 64 x 48 pixels
            words = path.strip("/").replace("/", " ").partition("?")[0].removesuffix(".jpg")
            link = path.replace("&", "&amp;")
            elements.append(f'<img src="{link}" alt="A picture of the fault named {words}">')
        site.add_page(host, "".join(elements))
    site.box.add(CLOSED, "/robots.txt", "User-agent: twotower\nDisallow: /")
    site.add_page(CLOSED, '<img src="/picture/1.jpg" alt="A picture behind closed doors">')
    site.fetched[site.box.url(CLOSED, "/picture/1.jpg")] = "robots"
    refused = '<meta name="robots" content="noai"><img src="/picture/2.jpg" alt="Not for training">'
    site.add_page(REFUSING, refused)


def crawl(pages: list[str], path: Path) -> None:
    """Write the responses of pages to a WARC file as they came over the wire."""
    with capture_http(str(path)):
        for page in pages:
            request = urllib.request.Request(page, headers={"Accept-Encoding": "gzip"})
            urllib.request.urlopen(request).read()


def twotower(*arguments: object, returncode: int = 0) -> str:
    command = [sys.executable, "-m", "twotower", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == returncode, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_a_crawl_to_a_training_run(tmp_path: Path, tiny_directory: Path) -> None:
    candidates, fetched, kept, shards, run = (
        tmp_path / name for name in ("candidates", "fetched", "kept", "shards", "run")
    )
    with WebInABox() as box:
        site = Site(box)
        add_gallery(site)
        add_drawings(site)
        add_faults(site)
        crawl(site.pages, tmp_path / "crawl.warc.gz")
        visits = dict(box.visits)

        output = twotower("pairs", "collect", tmp_path / "crawl.warc.gz", "--out", candidates)
        assert f"Collected {len(site.fetched)} candidates from {len(site.pages)} pages" in output
        for reason in ("boilerplate URL", "image without text", "refused by its page"):
            assert f"        1  {reason}" in output
        assert "        1  text is a file name" in output
        assert box.visits == visits  # collecting asks for nothing

        limits = "--host-rate 500 --timeout 6 --retries 1 --max-bytes 5MB".split()
        fetch = ("pairs", "fetch", candidates, "--out", fetched, "--allow-private", *limits)
        output = twotower(*fetch, returncode=1)  # some failed
        pictures = sum(not reason for reason in site.fetched.values())
        failed = len(site.fetched) - pictures
        assert f"Fetched {pictures} pictures into {fetched}; {failed} failed, 0 waiting" in output
        visits = dict(box.visits)
        twotower(*fetch, returncode=1)
        assert box.visits == visits  # nothing is asked for twice

    rows = pyarrow.parquet.read_table(fetched / "00000.parquet").to_pylist()
    assert {row["url"]: row["reason"] for row in rows} == site.fetched
    assert len(rows) == len(site.fetched)
    assert box.paths(CLOSED) == ["/index.html"]
    assert "/private/plan.jpg" not in box.paths(DRAWINGS)

    output = twotower("pairs", "filter", fetched, "--out", kept, "--score", "--keep", "1",
                      "--model", "small")  # fmt: skip
    (selection,) = (kept / "selection").glob("*.parquet")
    urls = {row["key"]: row["url"] for row in rows}
    removed = {
        urls[row["key"]]: row["filter"]
        for row in pyarrow.parquet.read_table(selection).to_pylist()
        if not row["kept"]
    }
    assert removed == site.removed

    twotower("pairs", "pack", fetched, shards, "--selection", kept, "--per-shard", "20")
    assert "matches all shards" in twotower("pairs", "stats", shards)
    packed = [json.loads(path.read_text()) for path in sorted(shards.glob("*_stats.json"))]
    assert sum(stats["successes"] for stats in packed) == len(site.kept())
    assert packed_urls(shards) == Counter(site.kept())

    train = ["train", "pretrain", shards, "--run", run, "--model", tiny_directory]
    twotower(*train, "--batch-size", 8, "--steps", 3)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert max(entry["step"] for entry in log if "step" in entry) == 2  # of 0, 1, 2
    assert (run / "model" / "model.safetensors").exists()


def packed_urls(folder: Path) -> Counter[str]:
    """Return the URLs of the samples in all tars; every picture can be read."""
    pairs = TarPairs(find_tars(str(folder)))
    for number in range(len(pairs)):
        assert pairs[number].captions
    urls: Counter[str] = Counter()
    for path in folder.glob("*.parquet"):
        urls.update(row["url"] for row in pyarrow.parquet.read_table(path).to_pylist())
    return urls
