"""`twotower pairs fetch` and `twotower pairs remove`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.cli.output import (
    FAILED,
    OK,
    count_of,
    positive,
    printable,
    show_progress,
    size_in_bytes,
)
from twotower.cli.ray_option import add_ray_option, open_cluster

if TYPE_CHECKING:
    from twotower.cli.output import Commands

CONVENTIONS = ("robots", "x-robots-tag", "content-usage", "tdmrep", "rsl")


def add_command(tools: Commands) -> None:
    """Add `fetch` and `remove` to the tools of `pairs`."""
    _add_fetch(tools)
    command = tools.add_parser("remove", help="remove pictures by URL or host, as a take-down asks")
    command.set_defaults(run=run_pairs_remove)
    command.add_argument("folder", type=Path, help="the folder that `pairs fetch` wrote")
    command.add_argument(
        "--urls", type=Path, metavar="FILE", help="a text file, a URL on each line"
    )
    command.add_argument(
        "--host", action="append", default=[], help="a host, with its subdomains; can be repeated"
    )


def _add_fetch(tools: Commands) -> None:
    command = tools.add_parser("fetch", help="fetch the pictures of candidates into tar shards")
    command.set_defaults(run=run_pairs_fetch)
    add = command.add_argument
    add("candidates", type=Path, help="the folder that `pairs collect` wrote")
    add("--out", type=Path, required=True, metavar="DIR", help="the folder of the shards")
    add(
        "--contact",
        default="",
        type=_contact,
        help="an e-mail address or URL for complaints; hosts see it in the user agent",
    )
    add(
        "--resize",
        choices=("shorter", "longer", "none"),
        default="shorter",
        help="the edge that --size limits; none keeps originals (shorter)",
    )
    add("--size", type=positive, default=512, help="of the edge, in pixels (512)")
    add("--keep-metadata", action="store_true", help="keep EXIF where a picture is not re-encoded")
    add("--per-shard", type=positive, default=10_000, help="URLs in a shard (10000)")
    add("--requests", type=positive, default=256, help="requests in progress (256)")
    add("--per-host", type=positive, default=2, help="requests to a host in progress (2)")
    add("--host-rate", type=_rate, default=5.0, help="requests to a host in a second (5)")
    add("--retries", type=_count, default=2, help="after failures that can heal (2)")
    add("--timeout", type=_rate, default=30.0, help="seconds for a request (30)")
    add("--max-bytes", type=size_in_bytes, default=20_000_000, help="of a download (20MB)")
    add("--deadline", type=_rate, metavar="SECONDS", help="end after this time; none by default")
    add(
        "--ignore",
        action="append",
        default=[],
        choices=CONVENTIONS,
        help="record this convention, but do not obey it; can be repeated",
    )
    add("--allow-private", action="store_true", help="contact private addresses, for tests")
    add_ray_option(command)


def run_pairs_fetch(arguments: argparse.Namespace) -> int:
    from twotower.pairs.fetching.fetch import FetchSettings, fetch
    from twotower.pairs.fetching.stored_picture import PictureSettings

    settings = FetchSettings(
        picture=PictureSettings(arguments.resize, arguments.size, arguments.keep_metadata),
        contact=arguments.contact,
        requests=arguments.requests,
        per_host=arguments.per_host,
        host_rate=arguments.host_rate,
        retries=arguments.retries,
        timeout=arguments.timeout,
        max_bytes=arguments.max_bytes,
        per_shard=arguments.per_shard,
        deadline=arguments.deadline,
        ignored=frozenset(arguments.ignore),
        allow_private=arguments.allow_private,
    )
    with show_progress("Fetching") as report, open_cluster(arguments) as cluster:
        if cluster is None:
            summary = fetch(arguments.candidates, arguments.out, settings, report)
        else:
            from twotower.pairs.fetching.slices import fetch_on_cluster

            summary = fetch_on_cluster(
                arguments.candidates, arguments.out, settings, cluster, report
            )
    print(
        f"Fetched {count_of(summary.pictures, 'picture')} into {arguments.out}; "
        f"{summary.failed} failed, {summary.waiting} waiting"
    )
    for reason, number in summary.reasons.items():
        print(f"  {number:>9,}  {reason}")
    if summary.waiting:
        print("Run the same command again to fetch those that are waiting.")
    return FAILED if summary.failed or summary.waiting else OK


def run_pairs_remove(arguments: argparse.Namespace) -> int:
    from twotower.errors import PairsError
    from twotower.pairs.fetching.fetch_input import SLICES_FILE
    from twotower.pairs.fetching.removal import remove
    from twotower.pairs.fetching.slices import remove_from_slices

    if arguments.urls is None and not arguments.host:
        raise PairsError("pairs remove", "nothing to remove", "give --urls FILE or --host HOST")
    urls = arguments.urls.read_text(encoding="utf-8").split() if arguments.urls else []
    is_sliced = (arguments.folder / SLICES_FILE).exists()
    report = (remove_from_slices if is_sliced else remove)(arguments.folder, urls, arguments.host)
    for removal in report.removals:
        print(f"{removal.shard:05d}  {removal.key}  run {removal.run}  {printable(removal.url)}")
    urls_removed, shards, runs = (
        count_of(len(items), noun)
        for items, noun in (
            (report.removals, "URL"),
            (report.shards, "shard"),
            (report.runs, "run"),
        )
    )
    print(f"Removed {urls_removed} from {shards} of {runs}; they will not be fetched again")
    return OK


def _contact(text: str) -> str:
    if not text.isprintable() or not text.isascii() or set("();") & set(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an e-mail address or URL")
    return text


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is not 0 or more")
    return value
