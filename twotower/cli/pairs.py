"""`twotower pairs`: pack and count image-text pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.cli import pairs_collect, pairs_fetch, pairs_filter
from twotower.cli.output import FAILED, OK, count_of, positive, print_failures, show_progress

if TYPE_CHECKING:
    from twotower.cli.output import Commands

SOURCE = "a tar, a pattern of tars, a table, or a folder with captions beside the pictures"


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("pairs", help="pack and count image-text pairs")
    tools = command.add_subparsers(required=True, metavar="TOOL")
    command = tools.add_parser("pack", help="write tar shards")
    command.set_defaults(run=run_pairs_pack)
    command.add_argument("source", help=SOURCE)
    command.add_argument("destination", type=Path, help="a new folder")
    command.add_argument(
        "--per-shard", type=positive, default=10_000, help="pairs in a shard (10000)"
    )
    pairs_filter.add_selection_options(command)
    command = tools.add_parser("stats", help="count pairs, sizes, captions and broken pairs")
    command.set_defaults(run=run_pairs_stats)
    command.add_argument("source", help=SOURCE)
    pairs_collect.add_command(tools)
    pairs_fetch.add_command(tools)
    pairs_filter.add_command(tools)


def run_pairs_pack(arguments: argparse.Namespace) -> int:
    if arguments.selection:
        return pairs_filter.pack_filtered(arguments)
    from twotower.pairs.shards import pack
    from twotower.pairs.sources import open_source

    source = open_source(arguments.source)
    with show_progress("Packing") as report:
        broken = pack(source, arguments.destination, arguments.per_shard, report)
    print_failures(broken)
    shards = len(list(arguments.destination.glob("*.tar")))
    print(
        f"Packed {count_of(len(source), 'pair')} into {count_of(shards, 'shard')} in "
        f"{arguments.destination}; {len(broken)} broken ones left out"
    )
    return FAILED if broken else OK


def run_pairs_stats(arguments: argparse.Namespace) -> int:
    from twotower.pairs.manifest import MANIFEST_FILE, verify_manifest
    from twotower.pairs.shards import count_pairs
    from twotower.pairs.sources import open_source

    source = open_source(arguments.source)
    with show_progress("Counting") as report:
        stats = count_pairs(source, report)
    print_failures(stats.broken)
    print("\n".join(stats.lines()))
    folder = Path(arguments.source)
    if not (folder / MANIFEST_FILE).is_file():
        return OK
    faults = verify_manifest(folder)
    print_failures(faults)
    print("manifest   " + ("does not match" if faults else "matches all shards"))
    return FAILED if faults else OK
