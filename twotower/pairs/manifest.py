"""The manifest of packed shards: counts, sources, settings and hashes; and its verification."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twotower.errors import PairsError
from twotower.files import atomic_write
from twotower.pairs.filters.funnel import FUNNEL_FILE
from twotower.pairs.packing import PackedCounts
from twotower.version import __version__

MANIFEST_FILE = "manifest.json"
LARGEST_HOSTS = 20


@dataclass(frozen=True)
class Release:
    """Who publishes a data set: the fields of the Model Openness Framework that only they know.

    Attributes:
        name: of the data set.
        producer: the person or organisation.
        contact: an address, to which requests for removal go.
        license: of the collection, by its SPDX identifier.
    """

    name: str
    producer: str = ""
    contact: str = ""
    license: str = ""


def write_manifest(
    destination: Path, filtering: Path, counts: Iterable[PackedCounts], release: Release
) -> dict[str, Any]:
    """Write `manifest.json` of the shards in a folder, and return its object."""
    counts = list(counts)
    record = json.loads((filtering / "filter" / "settings.json").read_text(encoding="utf-8"))
    hosts: Counter[str] = Counter()
    caption_sources: Counter[str] = Counter()
    for shard in counts:
        hosts.update(shard.hosts)
        caption_sources.update(shard.caption_sources)
    manifest = {
        "format": "twotower-pairs/1",
        "release": asdict(release),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "package": {"name": "twotower", "version": __version__},
        "counts": {
            "pictures": sum(shard.samples for shard in counts),
            "pairs": sum(shard.pairs for shard in counts),
            "shards": len(counts),
            "hosts": len(hosts),
        },
        "sources": {
            "folder": Path(record["source"]).name,
            "files": record["files"],
            "largest_hosts": dict(hosts.most_common(LARGEST_HOSTS)),
            "caption_sources": dict(caption_sources.most_common()),
        },
        "filters": {
            "settings": record["settings"],
            "scorer": record["scorer"],
            "queries": record["queries"],
            "evaluation_pictures": record["evaluation_pictures"],
            "funnel": json.loads((filtering / FUNNEL_FILE).read_text(encoding="utf-8")),
        },
        "shards": [
            _shard_entry(destination / f"{number:05d}.tar", shard)
            for number, shard in enumerate(counts)
        ],
    }
    with atomic_write(destination / MANIFEST_FILE, sync=True) as file:
        json.dump(manifest, file, indent=1, ensure_ascii=False)
    return manifest


def _shard_entry(path: Path, counts: PackedCounts) -> dict[str, Any]:
    return {
        "file": path.name,
        "sha256": file_sha256(path),
        "bytes": path.stat().st_size,
        "pictures": counts.samples,
        "pairs": counts.pairs,
    }


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_manifest(folder: Path) -> list[str]:
    """Compare the shards of a folder with its manifest.

    Returns:
        A line for each shard that is missing, changed, or not in the manifest.

    Raises:
        PairsError: the manifest is missing or cannot be read.
    """
    path = folder / MANIFEST_FILE
    try:
        entries = {
            entry["file"]: entry["sha256"]
            for entry in json.loads(path.read_text(encoding="utf-8"))["shards"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PairsError(path, f"cannot be read ({error})", "pack the selection again") from None
    tars = {tar.name: tar for tar in sorted(folder.glob("*.tar"))}
    faults = [f"{folder / name}: missing" for name in entries if name not in tars]
    for name, tar in tars.items():
        if name not in entries:
            faults.append(f"{tar}: not in the manifest")
        elif file_sha256(tar) != entries[name]:
            faults.append(f"{tar}: differs from the manifest")
    return faults
