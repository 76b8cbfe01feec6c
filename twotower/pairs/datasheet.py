"""A datasheet made from the manifest of packed shards.

Its headings are those of "Datasheets for Datasets" (Gebru et al. 2021), and its table has the
fields that a release of the Model Openness Framework (White et al. 2024) states for the components
that a set of pairs is: datasets, data preprocessing code, and data card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from twotower.files import atomic_write
from twotower.pairs.filters.settings import REASONS, Reason

DATASHEET_FILE = "datasheet.md"
UNSTATED = "not stated"


def write_datasheet(manifest: Mapping[str, Any], folder: Path) -> None:
    """Write `datasheet.md` for a manifest."""
    with atomic_write(folder / DATASHEET_FILE) as file:
        file.write(make_datasheet(manifest))


def make_datasheet(manifest: Mapping[str, Any]) -> str:
    """Return the datasheet of a manifest, as Markdown."""
    release, package = manifest["release"], manifest["package"]
    sections = {
        "Motivation": (
            "Pairs of pictures and texts for training models that embed both in one space."
        ),
        "Composition": _composition(manifest),
        "Collection process": _collection(manifest),
        "Preprocessing, cleaning, labelling": _preprocessing(manifest),
        "Uses": (
            "Contrastive training: `twotower train`, and every reader of webdataset shards. The "
            "texts were written for web pages, not as descriptions: they can be wrong, partial or "
            "offensive, and they reflect the biases of their authors. They are no facts about the "
            "persons shown."
        ),
        "Distribution": _distribution(manifest),
        "Maintenance": (
            f"Requests for removal: {release['contact'] or UNSTATED}. `KEY.json` names the address "
            "of each picture and of its page, and `twotower pairs remove` rewrites the shards that "
            "hold pictures of an address or host."
        ),
    }
    body = "\n".join(f"## {title}\n\n{text}\n" for title, text in sections.items())
    return (
        f"# Datasheet: {release['name']}\n\n"
        f"Written by {package['name']} {package['version']} on {manifest['created']} from "
        f"`manifest.json`.\n\n{_openness(manifest)}\n\n{body}"
    )


def _openness(manifest: Mapping[str, Any]) -> str:
    """Return the fields of the Model Openness Framework as a table."""
    release, package = manifest["release"], manifest["package"]
    rows = [
        ("Release", release["name"]),
        ("Date", manifest["created"][:10]),
        ("Producer", release["producer"] or UNSTATED),
        ("Contact", release["contact"] or UNSTATED),
        ("Component: datasets", f"`*.tar`, listed with SHA-256 in `manifest.json`; license: "
         f"{release['license'] or UNSTATED}. Each picture keeps the rights of its owner"),
        ("Component: data preprocessing code", f"{package['name']} {package['version']}, MIT; all "
         "settings are in `manifest.json`"),
        ("Component: data card", "this file"),
    ]  # fmt: skip
    return _table(("Model Openness Framework", ""), rows)


def _composition(manifest: Mapping[str, Any]) -> str:
    counts = manifest["counts"]
    size = sum(shard["bytes"] for shard in manifest["shards"]) / 2**20
    return (
        f"{counts['pictures']:,} pictures with {counts['pairs']:,} texts in {counts['shards']:,} "
        f"shards ({size:,.1f} MiB), in the layout of img2dataset: `KEY.jpg` (or another suffix), "
        "`KEY.txt` (a text), `KEY.json` (all texts and fields); a Parquet file has the fields of "
        "each shard. There are no labels and no splits.\n\n"
        "Pictures and texts can show or name persons. Texts with e-mail addresses or phone "
        f"numbers were {'kept' if _skipped(manifest, 'contact') else 'removed'}."
    )


def _collection(manifest: Mapping[str, Any]) -> str:
    sources = manifest["sources"]
    shards = _count_of(len(sources["files"]), "shard")
    hosts = _count_of(manifest["counts"]["hosts"], "host")
    lines = [
        f"Selected from {shards} of the folder `{sources['folder']}`, with pictures of {hosts}. "
        "What each address and its host said about use for training is in `KEY.json`, where the "
        "fetching recorded it."
    ]
    if sources["largest_hosts"]:
        lines.append(_table(("host", "pictures"), sources["largest_hosts"].items()))
    if sources["caption_sources"]:
        lines.append(_table(("source of the text", "pairs"), sources["caption_sources"].items()))
    return "\n\n".join(lines)


def _preprocessing(manifest: Mapping[str, Any]) -> str:
    filters = manifest["filters"]
    funnel = filters["funnel"]
    counts = {Reason(row["filter"], row["fault"]): row["pairs"] for row in funnel["removed"]}
    rows = [(r.filter, r.fault, f"{counts[r]:,}") for r in REASONS if r in counts]
    lines = [
        f"Of {funnel['pairs']:,} pairs, {funnel['kept']:,} were kept. The filters, in order:",
        _table(("filter", "reason", "pairs removed"), rows),
        "The pictures are those of the source shards, byte for byte. No text was changed.",
    ]
    if filters["scorer"]:
        share = filters["settings"]["score_share"]
        lines.append(
            f"CLIP scores are those of {filters['scorer']}; the best {share:.0%} were kept, so "
            "the set has the biases of that model."
        )
    if filters["evaluation_pictures"] and not _skipped(manifest, "evaluation"):
        count = filters["evaluation_pictures"]
        lines.append(f"Copies of {count:,} pictures of evaluation sets were removed.")
    settings = ((name, str(value)) for name, value in filters["settings"].items())
    lines.append(_table(("setting", "value"), settings))
    return "\n\n".join(lines)


def _distribution(manifest: Mapping[str, Any]) -> str:
    return (
        f"License of the collection: {manifest['release']['license'] or UNSTATED}. The license "
        "covers neither the pictures nor the texts, which belong to their owners."
    )


def _count_of(number: int, noun: str) -> str:
    """Return a count with its noun, such as "1 shard" or "2,000 shards"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _skipped(manifest: Mapping[str, Any], name: str) -> bool:
    return name in manifest["filters"]["settings"]["skipped"]


def _table(columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(cell: object) -> str:
    return " ".join(str(cell).replace("|", "\\|").split())
