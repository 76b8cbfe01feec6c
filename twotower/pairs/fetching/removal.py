"""Removal of pictures from shards, by their URL or host, as a take-down asks."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from twotower.errors import PairsError
from twotower.files import atomic_write
from twotower.pairs.fetching.ledger import LEDGER_FILE, Ledger, Removal
from twotower.pairs.fetching.spool import finish_shard, tar_path, write_tables, writing


@dataclass(frozen=True)
class RemovalReport:
    """The pictures that a removal took out of shards.

    Attributes:
        removals: each with its shard, key and run.
    """

    removals: list[Removal] = field(default_factory=list)

    @property
    def shards(self) -> list[int]:
        """The numbers of the shards that held them."""
        return sorted({removal.shard for removal in self.removals if removal.shard is not None})

    @property
    def runs(self) -> list[int]:
        """The numbers of the runs that fetched them."""
        return sorted({removal.run for removal in self.removals if removal.run is not None})


def remove(folder: Path, urls: Iterable[str], hosts: Sequence[str]) -> RemovalReport:
    """Remove pictures from the shards of a folder, and keep them from being fetched again.

    A host stands for its subdomains too. Shards are replaced one by one; a removal that is stopped
    is completed by the next call, or by the next `fetch`.

    Raises:
        PairsError: the folder has no ledger, or cannot be written.
    """
    if not (folder / LEDGER_FILE).is_file():
        raise PairsError(folder, "has no ledger", "give the folder that `pairs fetch` wrote")
    with writing(folder), closing(Ledger(folder)) as ledger:
        ledger.condemn(urls, hosts)
        return rewrite_condemned(folder, ledger)


def rewrite_condemned(folder: Path, ledger: Ledger) -> RemovalReport:
    """Rewrite the shards that hold pictures marked for removal."""
    report = RemovalReport(ledger.condemned())
    for state in ledger.open_shards():
        if state.number in report.shards:
            finish_shard(folder, ledger, state)
    for shard in report.shards:
        keys = {removal.key for removal in ledger.condemned(shard)}
        _rewrite_tar(tar_path(folder, shard), keys)
        write_tables(folder, shard, ledger.shard_records(shard))
        ledger.forget(shard)
    return report


def _rewrite_tar(path: Path, keys: set[str]) -> None:
    """Replace a tar by one without the members of some keys."""
    with (
        tarfile.open(path, "r:") as source,
        atomic_write(path, "wb", sync=True) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as target,
    ):
        for member in source:
            if member.name.partition(".")[0] not in keys:
                target.addfile(member, source.extractfile(member))
