"""A filtering: features of each file, then the filters that compare pairs, then the selection.

Layout of the output folder:

    filter/settings.json          the settings; another filtering needs another folder
    filter/features/NAME.parquet  for each input file, complete when it is there
    filter/scores/NAME.parquet    CLIP scores of the pairs that remain before that filter
    selection/NAME.parquet        a row for each pair: key, shard, caption, kept, filter, reason
    part-NNNNN.parquet            of candidates: those that are kept
    funnel.json                   the counts; complete when it is there

A filtering that was stopped continues with the files that are missing. Each step on one file
(`write_shard_features`, `write_candidate_features`, `write_scores`) depends on no other file.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twotower.arrays import Int64Array, UInt8Array
from twotower.errors import PairsError
from twotower.files import atomic_write
from twotower.pairs.cluster import MapTasks, map_here
from twotower.pairs.filters.columns import (
    PairColumns,
    read_columns,
    read_faults,
    read_parquet,
    write_candidate_features,
    write_parquet,
    write_shard_features,
)
from twotower.pairs.filters.duplicates import remove_duplicates
from twotower.pairs.filters.funnel import Funnel, count_reasons, read_funnel, write_funnel
from twotower.pairs.filters.queries import QueryBalance, QueryList, chances
from twotower.pairs.filters.scores import PairEncoder, below_share, read_scores, write_scores
from twotower.pairs.filters.settings import KEPT, REASONS, FilterSettings
from twotower.pairs.tars import find_tars
from twotower.progress import Progress, ReportProgress, ignore_progress


@dataclass(frozen=True)
class FilterInputs:
    """The model, queries and pictures that a filtering compares pairs with.

    Attributes:
        load_encoder: loads the model of the CLIP score, once in a process; a cluster pickles this
            function. Without it that filter is not applied.
        scorer: the name of the model, for the record.
        queries: by language (`queries.read_queries`); without them pairs are not balanced.
        evaluation: hashes of the pictures of evaluation sets (`pictures.hash_pictures`).
    """

    load_encoder: Callable[[], PairEncoder] | None = None
    scorer: str = ""
    queries: dict[str, QueryList] | None = None
    evaluation: UInt8Array | None = None


class Filtering:
    """The files of a filtering.

    Attributes:
        files: the input files: tars, or Parquet files of candidates.
        pictures: True for tars.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.folder = source, folder
        self.files, self.pictures = find_inputs(source)

    def features(self, file: Path) -> Path:
        """Return the file of features of an input file."""
        return self.folder / "filter" / "features" / f"{file.stem}.parquet"

    def scores(self, file: Path) -> Path:
        """Return the file of scores of an input file."""
        return self.folder / "filter" / "scores" / f"{file.stem}.parquet"

    def selection(self, file: Path) -> Path:
        """Return the file of the selection of an input file."""
        return self.folder / "selection" / f"{file.stem}.parquet"


def find_inputs(source: Path) -> tuple[list[Path], bool]:
    """Return the tars of a folder, and True; or its Parquet files of candidates, and False.

    Raises:
        PairsError: there are neither, or two files have the same name.
    """
    tars = [Path(tar) for tar in find_tars(str(source)) if Path(tar).is_file()]
    files = tars or sorted(path for path in source.glob("*.parquet") if path.is_file())
    if not files and source.suffix == ".parquet" and source.is_file():
        files = [source]
    if not files:
        raise PairsError(source, "holds no tars and no Parquet files", "give a folder with some")
    return files, bool(tars)


def filter_pairs(
    source: Path,
    folder: Path,
    settings: FilterSettings,
    inputs: FilterInputs | None = None,
    report: ReportProgress = ignore_progress,
    map_tasks: MapTasks = map_here,
) -> Funnel:
    """Filter candidates or shards, and write which are kept, with reasons for the others.

    Args:
        source: a folder of tars, or of Parquet files of candidates.
        folder: for the output; an unfinished filtering with these settings is continued.
        map_tasks: runs the steps on one file, such as `Cluster.map`.

    Raises:
        PairsError: the folder holds a filtering of something else, or an input cannot be read.
    """
    inputs = inputs or FilterInputs()
    filtering = Filtering(source, folder)
    record_settings(filtering, settings, inputs)
    if (funnel := read_funnel(folder)) is not None:
        return funnel
    identify = bool(settings.languages or inputs.queries)
    write_features(filtering, settings, identify, report, map_tasks)
    report(Progress(0, 0, stage="Comparing"))
    columns = read_columns(map(filtering.features, filtering.files), filtering.pictures)
    remove_duplicates(columns, settings, inputs.evaluation)
    if inputs.load_encoder is not None and filtering.pictures and settings.applies("score"):
        write_missing_scores(filtering, columns, inputs.load_encoder, report, map_tasks)
        remove_low_scores(filtering, columns, settings)
    balance = {}
    if inputs.queries and settings.applies("balance"):
        balance = balance_queries(filtering, columns, settings, inputs.queries)
    write_selection(filtering, columns, report)
    samples = len(np.unique(columns.samples[columns.kept()]))
    faults = [fault for file in filtering.files for fault in read_faults(filtering.features(file))]
    removed = count_reasons(columns.reasons)
    funnel = Funnel(len(columns.reasons), removed, samples, balance, faults)
    write_funnel(funnel, folder)
    return funnel


def record_settings(filtering: Filtering, settings: FilterSettings, inputs: FilterInputs) -> None:
    """Write `filter/settings.json`, or compare it with what is there.

    Raises:
        PairsError: the folder holds a filtering of other files or with other settings.
    """
    queries = {name: len(entries) for name, entries in (inputs.queries or {}).items()}
    record = {
        "source": str(filtering.source),
        "files": {file.name: file.stat().st_size for file in filtering.files},
        "settings": settings.to_json(),
        "scorer": inputs.scorer,
        "queries": queries,
        "evaluation_pictures": 0 if inputs.evaluation is None else len(inputs.evaluation),
    }
    path = filtering.folder / "filter" / "settings.json"
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in record if key != "source" and record[key] != earlier.get(key)]
        if changed:
            raise PairsError(
                filtering.folder,
                f"holds a filtering with other {', '.join(changed)}",
                "choose another folder",
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        json.dump(record, file, indent=1)


def write_features(
    filtering: Filtering,
    settings: FilterSettings,
    identify: bool,
    report: ReportProgress,
    map_tasks: MapTasks = map_here,
) -> None:
    """Write the features of the input files that have none yet.

    Args:
        identify: identify the languages of texts.
    """
    step = write_shard_features if filtering.pictures else write_candidate_features
    total = len(filtering.files)
    tasks = [
        FeaturesTask(file.absolute(), path.absolute())
        for file in filtering.files
        if not (path := filtering.features(file)).exists()
    ]
    write = functools.partial(_write_features, step, settings, identify)
    for done, _ in enumerate(map_tasks(write, tasks), total - len(tasks) + 1):
        report(Progress(done, total, stage="Reading"))


class FeaturesTask(NamedTuple):
    """An input file, and its file of features."""

    file: Path
    features: Path


def _write_features(
    step: Callable[[Path, Path, FilterSettings, bool], object],
    settings: FilterSettings,
    identify: bool,
    task: FeaturesTask,
) -> None:
    step(task.file, task.features, settings, identify)


class ScoresTask(NamedTuple):
    """An input file, its files of features and scores, and the rows to score."""

    file: Path
    features: Path
    scores: Path
    rows: Int64Array


def write_missing_scores(
    filtering: Filtering,
    columns: PairColumns,
    load_encoder: Callable[[], PairEncoder],
    report: ReportProgress,
    map_tasks: MapTasks = map_here,
) -> None:
    """Write the scores of the pairs that are left, for the input files that have none yet."""
    total = len(filtering.files)
    tasks = [
        ScoresTask(file.absolute(), filtering.features(file).absolute(), path.absolute(), rows)
        for file, rows in kept_rows(filtering, columns)
        if not (path := filtering.scores(file)).exists()
    ]
    write = functools.partial(_write_scores, load_encoder)
    for done, _ in enumerate(map_tasks(write, tasks), total - len(tasks) + 1):
        report(Progress(done, total, stage="Scoring"))


def _write_scores(load_encoder: Callable[[], PairEncoder], task: ScoresTask) -> None:
    write_scores(task.file, task.features, task.scores, task.rows, load_encoder())


def remove_low_scores(filtering: Filtering, columns: PairColumns, settings: FilterSettings) -> None:
    """Keep the best share of the pairs by their scores."""
    scores = [read_scores(filtering.scores(file)) for file in filtering.files]
    pairs = columns.kept()
    low = below_share(np.concatenate(scores), columns.ranks[pairs], settings.score_share)
    columns.remove(pairs[low], "score", "low CLIP score")


def balance_queries(
    filtering: Filtering,
    columns: PairColumns,
    settings: FilterSettings,
    queries: dict[str, QueryList],
) -> dict[str, dict[str, float]]:
    """Thin the pairs of frequent queries.

    Returns:
        The limit of matches and the share of the tail for each language.
    """
    balance = QueryBalance(queries)
    for texts, languages in _kept_texts(filtering, columns):
        balance.add(texts, languages)
    balance.decide(settings.query_limit)
    batches = [balance.probabilities(*batch) for batch in _kept_texts(filtering, columns)]
    probabilities = np.concatenate(batches)
    pairs = columns.kept()
    columns.remove(pairs[probabilities == 0], "balance", "no query matches")
    unlucky = chances(columns.ranks[pairs], settings.seed) >= probabilities
    frequent = pairs[unlucky & (probabilities > 0)]
    columns.remove(frequent, "balance", "queries are frequent")
    return {
        language: {"limit": thinned.limit, "tail_share": thinned.tail_share}
        for language, thinned in balance.balances.items()
    }


def kept_rows(filtering: Filtering, columns: PairColumns) -> Iterator[tuple[Path, Any]]:
    """Yield each input file with the rows of its kept pairs [k]."""
    for file, rows in zip(filtering.files, columns.file_slices(), strict=True):
        yield file, np.flatnonzero(columns.reasons[rows] == KEPT)


def _kept_texts(
    filtering: Filtering, columns: PairColumns
) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Yield the texts and languages of the kept pairs of each file."""
    import pyarrow as pa

    for file, rows in kept_rows(filtering, columns):
        table = read_parquet(filtering.features(file), ["caption", "language"])
        kept = table.take(pa.array(rows))
        yield kept["caption"].to_pylist(), kept["language"].to_pylist()


def write_selection(filtering: Filtering, columns: PairColumns, report: ReportProgress) -> None:
    """Write which pairs are kept, with reasons, and the kept rows of candidates."""
    slices = list(columns.file_slices())
    for done, (file, rows) in enumerate(zip(filtering.files, slices, strict=True), 1):
        reasons = columns.reasons[rows]
        write_parquet(filtering.selection(file), _selection_table(filtering, file, reasons))
        if not filtering.pictures:
            import pyarrow as pa

            kept = read_parquet(file).filter(pa.array(reasons == KEPT))
            write_parquet(filtering.folder / f"part-{done - 1:05d}.parquet", kept)
        report(Progress(done, len(slices), stage="Writing"))


def _selection_table(filtering: Filtering, file: Path, reasons: UInt8Array) -> Any:
    import pyarrow as pa

    features = read_parquet(filtering.features(file), ["key", "number"])
    names = [("", ""), *REASONS]
    return pa.table(
        {
            "key": features["key"],
            "shard": pa.array([file.name] * len(reasons), pa.string()),
            "caption": features["number"],
            "kept": reasons == KEPT,
            "filter": pa.array([names[number][0] for number in reasons], pa.string()),
            "reason": pa.array([names[number][1] for number in reasons], pa.string()),
        }
    )
