"""Download a model of the hub: the files it needs, each checked, with a record of their hashes.

The record (`hub/ORG--NAME.json` in the cache) has the SHA-256 of each file from its first download.
A file that has changed since, in the cache or on the hub under the same commit, is an error.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from twotower.encode.hub_files import needed_files
from twotower.errors import ModelError
from twotower.files import atomic_write, cache_folder

HUB_PREFIX = "hf-hub:"
RECORDS = "hub"  # in the cache folder
MAIN = "main"
OFFLINE_REMEDY = (
    "check the name and the network, or copy the repository to a directory and give its path"
)


@dataclass
class Record:
    """The downloads of a repository.

    Attributes:
        first_commit: the commit of the first download; None before it.
        commits: requested revision ("main" by default) -> the commit that it was last.
        files: of each commit: name -> (SHA-256, size, modification time in nanoseconds).
    """

    first_commit: str | None = None
    commits: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, tuple[str, int, int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """The needed files of a commit: name -> (size, SHA-256), either None if the hub omits it."""

    commit: str
    files: dict[str, tuple[int | None, str | None]]


def download(
    repository: str,
    revision: str | None = None,
    sha256: Mapping[str, str] | None = None,
    *,
    keep_revision: bool = False,
) -> Path:
    """Return the folder of a repository in the cache of huggingface_hub; download what is missing.

    Args:
        repository: `org/name`.
        revision: a commit, branch or tag; by default the main branch.
        sha256: of files that are known in advance.
        keep_revision: without `revision`, stay with the commit of the first download; once it is
            complete, the hub is not asked again.

    Raises:
        ModelError: the repository cannot be reached, read or stored, or a checksum is wrong.
    """
    record = read_record(repository)
    if revision is None and keep_revision:
        revision = record.first_commit
    if folder := _complete(repository, record, revision):
        _check(repository, folder, record, {})
        return folder
    try:
        listing = _list_files(repository, revision)
    except Exception as error:  # also of its HTTP library, and of answers that are not JSON
        folder = _cached(repository, record, revision)
        if folder is None or _is_refusal(error):
            raise _failure(repository, revision, error) from None
        _check(repository, folder, record, {})
        return folder
    record.first_commit = record.first_commit or listing.commit
    record.commits[revision or MAIN] = listing.commit
    return _fetch(repository, listing, record, sha256 or {})


def is_downloaded(repository: str, revision: str | None = None) -> bool:
    """Return True if a download of this repository was completed, and its files are still there."""
    record = read_record(repository)
    return _complete(repository, record, revision or record.first_commit) is not None


def read_record(repository: str) -> Record:
    """Return the record of a repository; an empty one if there is none that can be read."""
    try:
        tree = json.loads(_record_path(repository).read_text(encoding="utf-8"))
        return Record(
            tree["first_commit"],
            dict(tree["commits"]),
            {
                commit: {name: (facts[0], facts[1], facts[2]) for name, facts in files.items()}
                for commit, files in tree["files"].items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return Record()


def _record_path(repository: str) -> Path:
    return cache_folder() / RECORDS / f"{repository.replace('/', '--')}.json"


def _cached(repository: str, record: Record, revision: str | None) -> Path | None:
    """Return the folder of a revision in the cache of huggingface_hub, if it has one."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    revision = revision or MAIN
    reference = folder / "refs" / revision  # as other programs write it
    commit = record.commits.get(revision, revision)
    if commit == revision and reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _complete(repository: str, record: Record, commit: str | None) -> Path | None:
    """Return the folder of a commit if all files of its record are in the cache."""
    if commit is None or commit not in record.files:
        return None
    folder = _cached(repository, record, commit)
    if folder and all((folder / name).is_file() for name in record.files[commit]):
        return folder
    return None


def _list_files(repository: str, revision: str | None) -> Listing:
    from huggingface_hub import HfApi

    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    files = {}
    for name in needed_files(siblings):
        lfs: Any = siblings[name].lfs
        files[name] = (siblings[name].size, lfs["sha256"] if lfs else None)
    if not info.sha:
        raise ValueError("the hub names no commit")
    return Listing(info.sha, files)


def _fetch(repository: str, listing: Listing, record: Record, sha256: Mapping[str, str]) -> Path:
    """Download the files of a listing, check and record them; return their folder."""
    import huggingface_hub

    if not listing.files:
        raise ModelError(
            f"{HUB_PREFIX}{repository}", "holds no model", "give the name of a CLIP or SigLIP model"
        )
    paths = []
    try:
        _require_space(repository, listing)
        with _quiet():
            for name in listing.files:
                file = huggingface_hub.hf_hub_download(repository, name, revision=listing.commit)
                paths.append(Path(file))
    except Exception as error:  # as above
        raise _failure(repository, None, error) from None
    folder = paths[0].parents[next(iter(listing.files)).count("/")]
    record.files.setdefault(listing.commit, {})
    expected = {name: sha256.get(name, digest) for name, (_, digest) in listing.files.items()}
    _check(repository, folder, record, expected)
    path = _record_path(repository)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as output:
        json.dump(asdict(record), output, indent=1)
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out warnings of huggingface_hub, which become one error, and bars without terminal."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)


def _require_space(repository: str, listing: Listing) -> None:
    """Raise `OSError` if the disk of the cache cannot hold the files that are missing."""
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_CACHE

    missing = 0
    for name, (size, _) in listing.files.items():
        cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=listing.commit)
        missing += 0 if isinstance(cached, str) else size or 0
    folder = Path(HF_HUB_CACHE)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if missing > free:
        needs = f"{missing / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free in {folder}"
        raise OSError(errno.ENOSPC, f"the disk is full: {needs}")


def _check(
    repository: str,
    folder: Path,
    record: Record,
    expected: Mapping[str, str | None],
) -> None:
    """Compare files with what is expected and recorded; add to the record.

    Files whose size and time are those of the record are not read again.

    Args:
        expected: name -> SHA-256, or None if it is unknown.

    Raises:
        ModelError: a file differs. It is removed from the cache.
    """
    facts = record.files.get(folder.name, {})
    for name in {**expected, **facts}:
        path = folder / name
        if not path.is_file():
            continue
        stat, recorded = path.stat(), facts.get(name)
        correct = expected.get(name) or (recorded[0] if recorded else None)
        if recorded == (correct, stat.st_size, stat.st_mtime_ns):
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if correct and digest != correct:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise ModelError(
                f"{HUB_PREFIX}{repository}",
                f"{name} has the SHA-256 {digest[:16]}..., not {correct[:16]}...; it was removed",
                "download it again; if that repeats, the file on the hub was changed",
            )
        facts[name] = (digest, stat.st_size, stat.st_mtime_ns)


def _is_refusal(error: Exception) -> bool:
    """Return True if the hub has answered, so that an older copy is no substitute."""
    from huggingface_hub import errors

    return isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)


def _failure(repository: str, revision: str | None, error: Exception) -> ModelError:
    from huggingface_hub import errors

    subject = f"{HUB_PREFIX}{repository}" + (f"@{revision}" if revision else "")
    page = f"https://huggingface.co/{repository}"
    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            subject,
            "gated: its owners give access on request",
            f"accept its terms at {page}, then log in with: hf auth login",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            subject,
            "the hub has no such repository, or it is private",
            "check the name, or log in with: hf auth login",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(subject, "the hub has no such revision", f"see {page}/commits/main")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ModelError(
            subject,
            error.strerror or "the disk is full",
            "make room, or name another folder in HF_HUB_CACHE",
        )
    reason = (str(error).strip().splitlines() or [""])[0]
    if not isinstance(error, OSError) or not reason:
        reason = f"{type(error).__name__}: {reason}"
    return ModelError(subject, reason[:200], OFFLINE_REMEDY)
