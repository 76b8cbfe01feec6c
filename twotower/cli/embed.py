"""`twotower embed`: embed a collection of pictures or texts into Parquet files."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.cli.output import (
    FAILED,
    OK,
    add_model_options,
    count_of,
    positive,
    print_failures,
    show_progress,
    shown_path,
)
from twotower.cli.ray_option import add_ray_option, open_cluster
from twotower.encode.bulk.settings import BATCH_SIZE, FORMATS, ROWS_PER_SHARD

if TYPE_CHECKING:
    from twotower.cli.output import Commands
    from twotower.encode.bulk.settings import EmbedSettings, EmbedSummary


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "embed", help="embed a collection of pictures or texts into Parquet files"
    )
    command.set_defaults(run=run_embed)
    command.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a folder of pictures, tars or Parquet files, or such a file, as a path or URL",
    )
    add = command.add_argument
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder; an unfinished embedding is continued",
    )
    add("--texts", action="store_true", help="embed texts: the lines of files, or a column")
    columns = command.add_mutually_exclusive_group()
    columns.add_argument(
        "--text-column", metavar="NAME", help="embed the texts of this column of Parquet files"
    )
    columns.add_argument(
        "--column", metavar="NAME", help="of Parquet files, with pictures, paths or URLs"
    )
    add(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help=f"clip-retrieval: write img_emb/ and metadata/ of that program too ({FORMATS[0]})",
    )
    add(
        "--rows-per-shard",
        type=positive,
        default=ROWS_PER_SHARD,
        metavar="N",
        help=f"items in a file, of which a stopped run loses at most that many ({ROWS_PER_SHARD})",
    )
    add(
        "--batch-size",
        type=positive,
        default=BATCH_SIZE,
        metavar="N",
        help=f"pictures computed at once ({BATCH_SIZE})",
    )
    add("--contact", default="", help="for complaints, in requests for pictures at URLs")
    add("--allow-private", action="store_true", help="request private addresses, for tests")
    add_model_options(command, default_engine="auto")
    add_ray_option(command)


def run_embed(arguments: argparse.Namespace) -> int:
    from twotower.encode.bulk.run import embed

    warnings.filterwarnings("ignore", module="PIL")  # about single files, without their names
    with show_progress("Embedding") as report, open_cluster(arguments) as cluster:
        summary = embed(
            arguments.sources, arguments.out, arguments.model, _settings(arguments), report, cluster
        )
    print(_result(summary, arguments))
    print_failures(summary.faults)
    if summary.failed:
        print(
            f"twotower: {count_of(summary.failed, 'item')} could not be embedded; the column "
            "`error` has the reasons",
            file=sys.stderr,
        )
    return OK if summary.is_success else FAILED


def _settings(arguments: argparse.Namespace) -> EmbedSettings:
    from twotower.encode.bulk.settings import EmbedSettings

    return EmbedSettings(
        texts=arguments.texts or arguments.text_column is not None,
        column=arguments.text_column or arguments.column,
        format=arguments.format,
        rows_per_shard=arguments.rows_per_shard,
        engine=arguments.engine,
        batch_size=arguments.batch_size,
        contact=arguments.contact,
        allow_private=arguments.allow_private,
    )


def _result(summary: EmbedSummary, arguments: argparse.Namespace) -> str:
    """Return a line such as "Embedded 50 of 51 pictures into 1 shard of out in 2.1 s"."""
    items = count_of(
        summary.rows, "text" if arguments.text_column or arguments.texts else "picture"
    )
    earlier = f", {summary.earlier_shards} by earlier runs" if summary.earlier_shards else ""
    return (
        f"Embedded {summary.rows - summary.failed} of {items} into "
        f"{count_of(summary.shards, 'shard')} of {shown_path(arguments.out)} "
        f"in {summary.seconds:.1f} s{earlier}"
    )
