"""A bulk embedding: sources -> a plan of shards -> a Parquet file for each shard.

Layout of the folder:

    manifest.json               the model, the settings, the sources and the counts
    plan/                       the inputs and their shards, see `plan.py`
    embeddings/00000.parquet    a shard, complete when it is there
    img_emb/, text_emb/, metadata/    the files of clip-retrieval, on request

A run that was stopped, even by kill -9, continues with the shards that are missing.
"""

from __future__ import annotations

import functools
import json
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from twotower.encode.bulk.output import (
    CLIP_RETRIEVAL_FOLDERS,
    TABLE_FOLDER,
    read_counts,
    table_path,
    write_error,
)
from twotower.encode.bulk.plan import PLAN_FOLDER, Plan, Shard, is_plan_file
from twotower.encode.bulk.settings import EmbedSettings, EmbedSummary
from twotower.encode.bulk.shards import (
    EmbedJob,
    ShardResult,
    embed_shard,
    embed_shards,
    load_encoder,
)
from twotower.encode.engine import accelerator
from twotower.encode.golden import fingerprint, image_fingerprint
from twotower.encode.load import find_model
from twotower.errors import EmbedError, LibraryError
from twotower.files import atomic_write, exclusive_lock
from twotower.model.config import CLIPConfig, read_config
from twotower.pairs.cluster import Cluster, map_here
from twotower.pairs.remote import is_remote
from twotower.progress import Progress, ReportProgress, ignore_progress
from twotower.version import __version__

MANIFEST = "manifest.json"
FORMAT_VERSION = 1  # of the folder
_FOLDERS = (PLAN_FOLDER, TABLE_FOLDER, *CLIP_RETRIEVAL_FOLDERS)
_LEFTOVER = re.compile(r"\.twotower-[0-9a-f]{8}")  # a temporary file of `atomic_write`
_GPU_DEVICES = ("cuda", "tensorrt")


def embed(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    model: str | Path | None = None,
    settings: EmbedSettings | None = None,
    report: ReportProgress = ignore_progress,
    cluster: Cluster | None = None,
) -> EmbedSummary:
    """Embed pictures or texts into Parquet files, or continue an embedding that was stopped.

    Pictures that cannot be read have rows with an error and without an embedding. Tars, tables and
    pictures that are new since an earlier run are added.

    Args:
        sources: folders of pictures, tars or Parquet files; tars, Parquet files, pictures, or
            patterns of them; each a path or a URL of fsspec. With `settings.texts`: files of
            lines, or Parquet files.
        out: the folder of the embeddings, see the top of this file.
        model: as for `load`.
        cluster: runs the shards on Ray; all its machines see the folder and the sources.

    Raises:
        EmbedError: a source does not exist, the folder holds another embedding or is in use, or
            the disk is full.
        ModelError: the model does not exist or cannot be read.
        PairsError: a remote source cannot be listed.
    """
    started = time.monotonic()
    settings = settings or EmbedSettings()
    sources = [sources] if isinstance(sources, str | Path) else sources
    locations = list(dict.fromkeys(_absolute(str(source)) for source in sources))
    folder = Path(out).absolute()
    directory = find_model(model)
    with _writing(folder):
        record = describe(directory, locations, settings)
        _require_same(folder, record)
        _remove_leftovers(folder)
        plan = Plan(folder, settings.rows_per_shard)
        map_tasks = cluster.map if cluster else map_here
        faults = plan.extend(locations, settings, report, map_tasks)
        shards = plan.shards()
        _write_manifest(folder, {**record, "complete": False})
        job = EmbedJob(folder, str(directory.absolute()), settings)
        missing = [shard for shard in shards if not table_path(folder, shard.number).exists()]
        texts = cut = 0
        for result in _run(job, missing, report, cluster):
            texts, cut = texts + result.rows, cut + result.cut
            if result.fault:
                faults.append(result.fault)
        if cut:
            warnings.warn(_cut_message(cut, texts, read_config(directory)), stacklevel=2)
        summary = _summarize(folder, shards, missing, faults, time.monotonic() - started)
        counts = {"rows": summary.rows, "failed": summary.failed, "shards": summary.shards}
        complete = summary.shards == len(shards)
        _write_manifest(folder, {**record, "complete": complete, **counts, "faults": faults})
    return summary


def describe(directory: Path, locations: Sequence[str], settings: EmbedSettings) -> dict[str, Any]:
    """Return the record of an embedding, which stays the same in all its runs."""
    identify = fingerprint if settings.texts else image_fingerprint
    config = read_config(directory)
    return {
        "format": FORMAT_VERSION,
        "twotower": __version__,
        "model": config.name,
        "fingerprint": identify(directory),
        "embed_dim": config.embed_dim,
        "sources": list(locations),
        "settings": settings.identity(),
    }


def _cut_message(cut: int, texts: int, config: CLIPConfig) -> str:
    return (
        f"{cut} of {texts} texts are longer than the {config.tokenizer.context_length} tokens "
        f"that {config.name} reads and were cut"
    )


def _run(
    job: EmbedJob, shards: Sequence[Shard], report: ReportProgress, cluster: Cluster | None
) -> Iterator[ShardResult]:
    if not shards:
        return
    if cluster is None:
        yield from embed_shards(job, shards, report)
        return
    yield from _run_on_cluster(job, shards, report, cluster)


def _run_on_cluster(
    job: EmbedJob, shards: Sequence[Shard], report: ReportProgress, cluster: Cluster
) -> Iterator[ShardResult]:
    """Embed a shard in each task: on one core, or on one GPU with its share of the cores."""
    engine = job.settings.engine
    gpus = int(cluster.gpus > 0 and (engine.endswith(_GPU_DEVICES) or bool(accelerator(engine))))
    processes = cluster.gpus if gpus else cluster.cpus
    cpus = max(1, cluster.cpus // processes) if gpus else 1
    total = sum(shard.rows or job.settings.rows_per_shard for shard in shards)
    job = replace(job, threads=cpus, processes=processes)
    if not gpus and not job.settings.texts:
        job = _with_chosen_engine(job, total, report)
    step = functools.partial(embed_shard, job)
    done = failed = 0
    report(Progress(0, total, stage="Embedding"))
    for _, result in cluster.map(step, shards, cpus=cpus, gpus=gpus):
        done, failed = done + result.rows, failed + result.failed
        report(Progress(done, max(total, done), failed, "Embedding"))
        yield result


def _with_chosen_engine(job: EmbedJob, pictures: int, report: ReportProgress) -> EmbedJob:
    """Return a job with the engine that "auto" means, measured here if it is worth it.

    A task cannot measure: it has few pictures, and others compute at the same time.
    """
    encoder = load_encoder(job.model, job.settings.engine, job.threads)
    encoder.choose_engine(pictures, report)
    return replace(job, settings=replace(job.settings, engine=encoder.engine))


def _absolute(source: str) -> str:
    return source if is_remote(source) else str(Path(source).absolute())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Lock the folder while the block runs.

    Raises:
        EmbedError: another run is writing it, it has files of other programs, or it cannot be
            written.
    """
    try:
        _require_own(folder)
        for name in (TABLE_FOLDER, PLAN_FOLDER):
            (folder / name).mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder, "folder", "choose another folder with --out"):
            yield
    except LibraryError as error:
        raise EmbedError(folder, error.reason, error.remedy) from None
    except OSError as error:
        raise write_error(error.filename or folder, "read or written", error) from error


def _require_own(folder: Path) -> None:
    """Raise `EmbedError` if a folder without a manifest has files of other programs.

    Without a manifest, no shard has been written, and a killed run can have left a plan only.
    """
    if (folder / MANIFEST).exists():
        return
    for name in _FOLDERS:
        files = (folder / name).iterdir() if (folder / name).exists() else ()
        for file in files:
            if name != PLAN_FOLDER or not (is_plan_file(file) or _LEFTOVER.fullmatch(file.name)):
                raise EmbedError(folder, f"has other files in {name}/", "choose another folder")


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed run left behind."""
    for name in _FOLDERS:
        for file in (folder / name).glob(".twotower-*"):
            if _LEFTOVER.fullmatch(file.name):
                file.unlink()


def _require_same(folder: Path, record: dict[str, Any]) -> None:
    """Raise `EmbedError` if the folder holds another embedding."""
    path = folder / MANIFEST
    if not path.exists():
        for file in (folder / PLAN_FOLDER).iterdir():  # of a run that ended before its first shard
            if is_plan_file(file):
                file.unlink()
        return
    try:
        earlier = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise EmbedError(path, f"is damaged ({error})", "choose another folder") from None
    for name, noun in (
        ("format", "format"),
        ("fingerprint", f"model ({earlier.get('model')})"),
        ("settings", "settings"),
        ("sources", "sources"),
    ):
        if earlier.get(name) != record[name]:
            raise EmbedError(
                folder,
                f"holds an embedding with another {noun}".replace("another s", "other s"),
                "choose another folder, or repeat the command of its first run",
            )


def _summarize(
    folder: Path,
    shards: Sequence[Shard],
    missing: Sequence[Shard],
    faults: list[str],
    seconds: float,
) -> EmbedSummary:
    paths = [table_path(folder, shard.number) for shard in shards]
    counts = [read_counts(path) for path in paths if path.exists()]
    return EmbedSummary(
        sum(rows for rows, _ in counts),
        sum(failed for _, failed in counts),
        len(counts),
        len(shards) - len(missing),
        faults,
        seconds,
    )


def _write_manifest(folder: Path, tree: dict[str, Any]) -> None:
    with atomic_write(folder / MANIFEST, sync=True) as file:
        json.dump(tree, file, indent=1)
