"""Shared by the tests of fetching: candidates, quick settings, and a reader of shards."""

import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tests.pairs.web_in_a_box import WebInABox
from twotower.pairs.fetching.fetch import FetchSettings, FetchSummary, fetch
from twotower.pairs.fetching.stored_picture import PictureSettings

QUICK: dict[str, Any] = {"host_rate": 10_000.0, "timeout": 2.0, "retries": 1}


def write_candidates(
    folder: Path, urls: Iterable[str | Mapping[str, str]], number: int = 0
) -> Path:
    """Write a part of candidates; a URL alone gets a caption."""
    rows = [url if isinstance(url, Mapping) else {"url": url} for url in urls]
    columns = {
        "url": [row["url"] for row in rows],
        "caption": [row.get("caption", f"picture {i}") for i, row in enumerate(rows)],
        "caption_source": [row.get("caption_source", "alt") for row in rows],
        "page_url": [row.get("page_url", "http://page.test/") for row in rows],
        "language": [row.get("language", "en") for row in rows],
    }
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), folder / f"part-{number:05d}.parquet")
    return folder


def fetch_urls(
    box: WebInABox,
    folder: Path,
    urls: Iterable[str | Mapping[str, str]],
    *,
    resize: str = "none",
    is_allowed: Callable[[str], bool] = lambda _: True,
    **settings: Any,
) -> FetchSummary:
    """Fetch URLs of the box into `folder / "shards"`."""
    candidates = write_candidates(folder / "candidates", urls)
    picture = PictureSettings(resize, settings.pop("size", 100), settings.pop("keep", False))  # type: ignore[arg-type]
    return fetch(
        candidates,
        folder / "shards",
        FetchSettings(picture=picture, **{**QUICK, **settings}),
        resolve=box.resolve,
        is_allowed=is_allowed,
    )


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of all tables by URL; a URL that is in two rows is an error."""
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / "shards").glob("*.parquet")):
        for row in pyarrow.parquet.read_table(path).to_pylist():
            assert row["url"] not in rows
            rows[row["url"]] = {**row, "consent": json.loads(row["consent"])}
    return rows


def read_samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Return the members of all tars by key and extension."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                assert extension not in samples.setdefault(key, {})
                samples[key][extension] = file.read()
    return samples


def reason_of(box: WebInABox, folder: Path, url: str, **settings: Any) -> str:
    """Return the reason of the failure of a URL; "" if it was fetched."""
    fetch_urls(box, folder, [url], **settings)
    return read_rows(folder)[url]["reason"]
