"""`twotower pairs collect`: image-text pairs of web archives, pages, feeds and URL lists."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.cli.output import FAILED, OK, count_of, positive, print_failures, show_progress
from twotower.cli.ray_option import add_ray_option, open_cluster

if TYPE_CHECKING:
    from twotower.cli.output import Commands
    from twotower.pairs.candidates import Counts


def add_command(tools: Commands) -> None:
    command = tools.add_parser(
        "collect", help="find images and their texts in web archives, pages, feeds and URL lists"
    )
    command.set_defaults(run=run_pairs_collect)
    command.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="SOURCE",
        help="WARC, WAT, HTML, sitemap, RSS, Atom, CSV, TSV, JSON lines, Parquet, or a folder",
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the folder of the candidates"
    )
    command.add_argument(
        "--processes", type=positive, default=0, metavar="N", help="(one for each core)"
    )
    command.add_argument(
        "--keep-refused",
        action="store_true",
        help="keep the images of pages that refuse collection, as by noai or noindex",
    )
    add_ray_option(command)
    for content in ("url", "caption"):
        command.add_argument(
            f"--{content}-column",
            default="",
            metavar="NAME",
            help=f"the column of {content}s in lists (found by usual names)",
        )


def run_pairs_collect(arguments: argparse.Namespace) -> int:
    from twotower.pairs.web import CollectSettings, collect

    settings = CollectSettings(
        arguments.keep_refused, arguments.url_column, arguments.caption_column
    )
    with show_progress("Collecting") as report, open_cluster(arguments) as cluster:
        collected = collect(
            arguments.sources, arguments.out, settings, arguments.processes, report, cluster
        )
    print_failures(collected.failures)
    print_counts(collected.counts)
    total = collected.parts_made + collected.parts_kept
    print(
        f"Collected {count_of(collected.counts['candidates'], 'candidate')} from "
        f"{count_of(collected.counts['pages'], 'page')} into {arguments.out} "
        f"({count_of(total, 'part')}, {collected.parts_kept} made before); "
        f"{count_of(len(collected.failures), 'input')} could not be read"
    )
    return FAILED if collected.failures or damage(collected.counts) else OK


def damage(counts: Counts) -> int:
    """Return the number of records, rows and pages that could not be read."""
    from twotower.pairs.candidates import DAMAGE

    return sum(counts[reason] for reason in DAMAGE)


def print_counts(counts: Counts) -> None:
    """Print what was left out, the most frequent reason first."""
    from twotower.pairs.candidates import CANDIDATES, PAGES

    for reason, count in counts.most_common():
        if reason not in (PAGES, CANDIDATES):
            print(f"{count:>9}  {reason}")
