"""`twotower pairs filter` and the packing of its selection."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.cli.output import (
    FAILED,
    OK,
    add_model_options,
    positive,
    print_failures,
    show_progress,
)
from twotower.cli.ray_option import add_ray_option, open_cluster

if TYPE_CHECKING:
    from twotower.arrays import UInt8Array
    from twotower.cli.output import Commands
    from twotower.encode.encoder import Encoder
    from twotower.pairs.filters.run import FilterInputs
    from twotower.pairs.filters.settings import FilterSettings

PAGE = "funnel.html"


def add_command(tools: Commands) -> None:
    command = tools.add_parser(
        "filter", help="remove bad, repeated and private pairs, with reasons for each"
    )
    command.set_defaults(run=run_pairs_filter)
    command.add_argument(
        "source", type=Path, help="a folder of fetched shards (tars), or of candidates (Parquet)"
    )
    command.add_argument(
        "--out", type=Path, required=True, help="a folder; an unfinished filtering is continued"
    )
    command.add_argument(
        "--skip", default="", metavar="NAMES", help="filters to leave out, with commas between"
    )
    command.add_argument(
        "--languages", default="", metavar="CODES", help="languages to keep, such as en,de (all)"
    )
    command.add_argument("--min-side", type=positive, help="pixels of the shorter side (200)")
    command.add_argument("--max-aspect", type=float, help="longer over shorter side (3)")
    command.add_argument(
        "--text-copies", type=positive, help="pairs with nearly the same text to keep (10)"
    )
    command.add_argument(
        "--score",
        action="store_true",
        help="keep the pairs with the best CLIP scores, of the model that --model names",
    )
    command.add_argument("--keep", type=float, help="share to keep by CLIP score (0.3)")
    command.add_argument(
        "--queries", type=Path, help="balance by these: a text file, or a folder of LANGUAGE.txt"
    )
    command.add_argument("--per-query", type=positive, help="pairs of a query to keep (20000)")
    command.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="SET",
        help="remove copies of these pictures: a folder, tars, a table or .npz; repeatable",
    )
    add_model_options(command)
    add_ray_option(command)


def add_selection_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `pack` that concern a selection."""
    command.add_argument(
        "--selection", type=Path, metavar="FOLDER", help="pack what `pairs filter --out` kept"
    )
    command.add_argument("--name", default="", help="of the data set, for its datasheet")
    command.add_argument("--producer", default="", help="who publishes it, for its datasheet")
    command.add_argument("--contact", default="", help="for removals, for its datasheet")
    command.add_argument("--license", default="", help="of the collection, for its datasheet")


def run_pairs_filter(arguments: argparse.Namespace) -> int:
    from twotower.pages.funnel import write_funnel_page
    from twotower.pairs.cluster import map_here
    from twotower.pairs.filters.run import Filtering, filter_pairs
    from twotower.pairs.filters.samples import sample_pairs

    settings = _settings(arguments)
    with show_progress("Reading") as report, open_cluster(arguments) as cluster:
        inputs = _inputs(arguments)
        map_tasks = cluster.map if cluster else map_here
        funnel = filter_pairs(arguments.source, arguments.out, settings, inputs, report, map_tasks)
    page = arguments.out / PAGE
    if not page.exists():
        samples = sample_pairs(Filtering(arguments.source, arguments.out))
        write_funnel_page(funnel, samples, arguments.source.name or "pairs", page)
    print("\n".join(funnel.lines()))
    print(f"Samples of what was removed: {page}")
    print_failures(funnel.faults)
    return FAILED if funnel.faults else OK


def _settings(arguments: argparse.Namespace) -> FilterSettings:
    from twotower.pairs.filters.settings import FilterSettings
    from twotower.pairs.filters.texts import check_languages

    values: dict[str, Any] = {
        "skipped": _names(arguments.skip),
        "languages": _names(arguments.languages),
        "min_side": arguments.min_side,
        "max_aspect": arguments.max_aspect,
        "text_copies": arguments.text_copies,
        "score_share": arguments.keep,
        "query_limit": arguments.per_query,
    }
    check_languages(values["languages"])
    return FilterSettings(**{name: value for name, value in values.items() if value is not None})


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _inputs(arguments: argparse.Namespace) -> FilterInputs:
    from twotower.pairs.filters.queries import read_queries
    from twotower.pairs.filters.run import FilterInputs

    load_encoder, scorer = None, ""
    if arguments.score:
        load_encoder = functools.partial(_load_encoder, arguments.model, arguments.engine)
        scorer = load_encoder().config.name
    return FilterInputs(
        load_encoder,
        scorer,
        read_queries(arguments.queries) if arguments.queries else None,
        _evaluation_hashes(arguments.evaluation),
    )


@functools.cache
def _load_encoder(model: str, engine: str) -> Encoder:
    """Load a model once in a process; a cluster pickles this function by its name."""
    from twotower.encode.load import load

    return load(model, engine=engine)


def _evaluation_hashes(locations: list[str]) -> UInt8Array | None:
    from twotower.pairs.filters.pictures import hash_pictures

    if not locations:
        return None
    return hash_pictures(picture for name in locations for picture in _evaluation_pictures(name))


def _evaluation_pictures(location: str) -> Iterator[Any]:
    """Yield the pictures of an evaluation set: labelled, or any pictures in a folder or in tars."""
    from twotower.errors import BrokenPairError, PairsError
    from twotower.evaluate.sets import open_set
    from twotower.inputs.pictures import find_pictures
    from twotower.pairs.tars import TarPairs, find_tars

    if tars := find_tars(location):
        pairs = TarPairs(tars)
        for number in range(len(pairs)):
            try:
                yield pairs[number].picture
            except BrokenPairError:
                continue
    elif Path(location).is_dir():
        pictures = [path for path in find_pictures([location]) if path.is_file()]
        if not pictures:
            raise PairsError(location, "holds no pictures", "choose a folder with pictures")
        yield from pictures
    else:
        pictures_of_set = open_set(location).pictures
        yield from (pictures_of_set[number] for number in range(len(pictures_of_set)))


def pack_filtered(arguments: argparse.Namespace) -> int:
    """Pack the selection of `pairs filter`, with a manifest and a datasheet."""
    from twotower.pairs.datasheet import write_datasheet
    from twotower.pairs.manifest import Release, write_manifest
    from twotower.pairs.packing import end_packing, pack_selection

    destination = arguments.destination
    with show_progress("Packing") as report:
        counts = pack_selection(
            Path(arguments.source), arguments.selection, destination, arguments.per_shard, report
        )
    name = arguments.name or destination.resolve().name
    release = Release(name, arguments.producer, arguments.contact, arguments.license)
    manifest = write_manifest(destination, arguments.selection, counts, release)
    write_datasheet(manifest, destination)
    end_packing(destination)
    total = manifest["counts"]
    print(
        f"Packed {total['pictures']:,} pictures with {total['pairs']:,} texts into "
        f"{total['shards']:,} shards in {destination}, with manifest.json and datasheet.md"
    )
    return OK
