"""A ledger of URLs in SQLite: which are waiting, which are finished, and what their hosts stated.

A URL changes its state in the transaction that records the size of the shard with its picture. So
after a crash, the ledger and the shards, cut to the recorded sizes, agree.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from twotower.errors import PairsError
from twotower.pairs.fetching.addresses import parse_url

LEDGER_FILE = "ledger.sqlite"
WAITING, FINISHED, CONDEMNED, REMOVED = range(4)  # condemned: to be removed from its shard
INVALID_HOST, DATA_HOST = "(invalid)", "(data)"  # of malformed URLs, and of data: URIs
MAX_TEXTS = 100  # of a URL; logos have millions

_SCHEMA_VERSION = 1
_PAGE = 64  # URLs of a host that are read at a time
_SCHEMA = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, started TEXT NOT NULL, ended TEXT, settings TEXT NOT NULL
);
CREATE TABLE parts (name TEXT PRIMARY KEY);
CREATE TABLE urls (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    shard INTEGER, position INTEGER, run INTEGER,
    status TEXT, reason TEXT,
    final_hash BLOB, final_host TEXT,
    record TEXT
);
CREATE INDEX waiting_urls ON urls (host, id) WHERE state = 0;
CREATE INDEX shard_urls ON urls (shard, position) WHERE shard IS NOT NULL;
CREATE TABLE texts (
    hash BLOB NOT NULL, caption TEXT NOT NULL, source TEXT NOT NULL, page_url TEXT NOT NULL,
    language TEXT NOT NULL
);
CREATE INDEX texts_of_url ON texts (hash);
CREATE TABLE shards (
    number INTEGER PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
    complete INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE documents (hash TEXT PRIMARY KEY, url TEXT NOT NULL, text BLOB NOT NULL);
CREATE TABLE removed_hosts (host TEXT PRIMARY KEY);
"""


_DELETE_TEXTS = "DELETE FROM texts WHERE hash IN (SELECT hash FROM urls WHERE state = ?)"


class Text(NamedTuple):
    """A text of a URL, as the candidates have it."""

    caption: str
    source: str
    page_url: str
    language: str


class Candidate(NamedTuple):
    """A URL with one of its texts."""

    url: str
    text: Text


class WaitingUrl(NamedTuple):
    """A URL that is to be fetched: its hash, and its form in the candidates."""

    hash: bytes
    url: str


@dataclass(frozen=True)
class Result:
    """The result of a URL.

    Attributes:
        hash: of the URL.
        position: in its shard.
        status, reason: as in the table of the shard.
        record: the row of that table, a JSON object.
        final_url: the URL that a redirect led to, or "".
    """

    hash: bytes
    position: int
    status: str
    reason: str
    record: str
    final_url: str = ""


class ShardState(NamedTuple):
    """A shard: its number, its rows, and the bytes of its tar that are recorded."""

    number: int
    rows: int
    bytes: int


class Removal(NamedTuple):
    """A URL that is removed, with the shard, key and run that held it; empty if none did."""

    url: str
    shard: int | None
    key: str
    run: int | None


def url_hash(url: str) -> bytes:
    """Return the identity of a URL: 16 bytes of the SHA-256 of its canonical form."""
    parsed = parse_url(url)
    text = parsed.text if parsed else url
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def host_of(url: str) -> str:
    """Return the host and port of a URL, by which requests are limited."""
    if url[:5].lower() == "data:":
        return DATA_HOST
    parsed = parse_url(url)
    return parsed.authority if parsed else INVALID_HOST


def is_within(authority: str, host: str) -> bool:
    """Return True if an authority is a host, one of its ports, or a subdomain of it."""
    name = re.sub(r":\d+$", "", authority.lower()).rstrip(".")
    host = host.lower().rstrip(".")
    return name == host or name.endswith(f".{host}")


class Ledger:
    """The ledger of a folder of shards. Its methods may be called from any thread, one at a time.

    Raises:
        PairsError: the file is no ledger, or one of a newer version.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER_FILE
        try:
            self._database = sqlite3.connect(self.path, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")  # durable at each commit
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._database.executescript(
                    f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
                )
        except sqlite3.DatabaseError as error:
            raise PairsError(
                self.path, f"cannot be used as a ledger ({error})", "choose another folder"
            ) from None
        if version > _SCHEMA_VERSION:
            raise PairsError(self.path, "made by a newer version", "update twotower")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # Runs

    def start_run(self, started: str, settings: dict[str, Any]) -> int:
        """Record a run and return its number."""
        with self._database:
            cursor = self._database.execute(
                "INSERT INTO runs (started, settings) VALUES (?, ?)",
                (started, json.dumps(settings)),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def end_run(self, run: int, ended: str) -> None:
        """Record the end of a run."""
        with self._database:
            self._database.execute("UPDATE runs SET ended = ? WHERE id = ?", (ended, run))

    # Candidates

    def has_part(self, name: str) -> bool:
        """Return True if a file of candidates was read completely."""
        return bool(
            self._database.execute("SELECT 1 FROM parts WHERE name = ?", (name,)).fetchone()
        )

    def add_part(self, name: str, batches: Iterable[Sequence[Candidate]]) -> None:
        """Add the candidates of a file, all or none. URLs that are finished or removed stay so."""
        removed = self.removed_hosts()
        with self._database:
            for batch in batches:
                self._add_batch(batch, removed)
            self._database.execute("INSERT OR IGNORE INTO parts VALUES (?)", (name,))

    def _add_batch(self, batch: Sequence[Candidate], removed: Sequence[str]) -> None:
        urls, texts = [], []
        for candidate in batch:
            url = _storable(candidate.url)
            digest, host = url_hash(url), host_of(url)
            if not any(is_within(host, name) for name in removed):
                urls.append((digest, url, host))
                texts.append((digest, *map(_storable, candidate.text), digest))
        self._database.executemany(
            "INSERT OR IGNORE INTO urls (hash, url, host) VALUES (?, ?, ?)", urls
        )
        self._database.executemany(
            "INSERT INTO texts SELECT ?, ?, ?, ?, ? FROM urls WHERE hash = ? AND state = 0", texts
        )

    def texts(self, digest: bytes) -> list[Text]:
        """Return the texts of a URL without repetitions, at most `MAX_TEXTS`."""
        rows = self._database.execute(
            "SELECT caption, source, page_url, language FROM texts WHERE hash = ? ORDER BY rowid "
            "LIMIT ?",
            (digest, 10 * MAX_TEXTS),
        )
        texts: dict[str, Text] = {}
        for row in rows:
            texts.setdefault(row[0], Text(*row))
        return list(texts.values())[:MAX_TEXTS]

    # URLs that are waiting

    def waiting_hosts(self) -> Iterator[str]:
        """Yield the hosts of waiting URLs, those with the most URLs first, so that they end early.

        The order is made once; only its current row is in memory.
        """
        with closing(sqlite3.connect("", isolation_level=None)) as order:  # a temporary file
            order.execute("CREATE TABLE hosts (host TEXT)")
            order.execute("BEGIN")
            order.executemany(
                "INSERT INTO hosts VALUES (?)",
                self._database.execute(
                    "SELECT host FROM urls WHERE state = 0 GROUP BY host ORDER BY COUNT(*) DESC"
                ),
            )
            order.execute("COMMIT")
            for (host,) in order.execute("SELECT host FROM hosts ORDER BY rowid"):
                yield host

    def waiting_urls(self, host: str) -> Iterator[WaitingUrl]:
        """Yield the waiting URLs of a host, in the order of the candidates."""
        position = 0
        while True:
            page = self._database.execute(
                "SELECT id, hash, url FROM urls WHERE state = 0 AND host = ? AND id > ? "
                "ORDER BY id LIMIT ?",
                (host, position, _PAGE),
            ).fetchall()
            for _, digest, url in page:
                yield WaitingUrl(digest, url)
            if len(page) < _PAGE:
                return
            position = page[-1][0]

    def count(self, state: int) -> int:
        """Return the number of URLs in a state."""
        return self._database.execute(
            "SELECT COUNT(*) FROM urls WHERE state = ?", (state,)
        ).fetchone()[0]

    def count_reasons(self) -> dict[str, int]:
        """Return the number of finished URLs by reason; successes have the reason ""."""
        return dict(
            self._database.execute(
                "SELECT reason, COUNT(*) FROM urls WHERE state IN (1, 2) GROUP BY reason "
                "ORDER BY COUNT(*) DESC, reason"
            )
        )

    # Shards

    def open_shards(self) -> list[ShardState]:
        """Return the shards that are not complete, by number; after a crash there can be two."""
        rows = self._database.execute(
            "SELECT number, rows, bytes FROM shards WHERE NOT complete ORDER BY number"
        )
        return [ShardState(*row) for row in rows]

    def next_shard(self, first_number: int = 0, step: int = 1) -> int:
        """Return the number of the shard after all others, or `first_number`."""
        query = "SELECT COALESCE(MAX(number) + ?, ?) FROM shards"
        return self._database.execute(query, (step, first_number)).fetchone()[0]

    def record_results(self, shard: ShardState, run: int, results: Sequence[Result]) -> None:
        """Record finished URLs, and the bytes and rows of their shard, in one transaction."""
        rows = [
            (
                FINISHED,
                shard.number,
                result.position,
                run,
                result.status,
                result.reason,
                url_hash(result.final_url) if result.final_url else None,
                host_of(result.final_url) if result.final_url else None,
                result.record,
                result.hash,
            )
            for result in results
        ]
        with self._database:
            self._database.execute(
                "INSERT INTO shards (number, rows, bytes) VALUES (?, ?, ?) "
                "ON CONFLICT (number) DO UPDATE SET rows = excluded.rows, bytes = excluded.bytes",
                shard,
            )
            self._database.executemany(
                "UPDATE urls SET state = ?, shard = ?, position = ?, run = ?, status = ?, "
                "reason = ?, final_hash = ?, final_host = ?, record = ? "
                "WHERE hash = ? AND state = 0",
                rows,
            )
            self._database.executemany(
                "DELETE FROM texts WHERE hash = ?", [(result.hash,) for result in results]
            )

    def shard_records(self, shard: int) -> list[dict[str, Any]]:
        """Return the records of a shard in their order, without those that are to be removed."""
        rows = self._database.execute(
            "SELECT record FROM urls WHERE shard = ? AND state = ? ORDER BY position",
            (shard, FINISHED),
        )
        return [json.loads(record) for (record,) in rows]

    def complete_shard(self, shard: int) -> None:
        """Record that the files of a shard are complete."""
        with self._database:
            self._database.execute("UPDATE shards SET complete = 1 WHERE number = ?", (shard,))

    # Consent

    def add_documents(self, documents: Iterable[tuple[str, str, str]]) -> None:
        """Keep documents of hosts: (SHA-256, URL, text). Equal ones are kept once."""
        rows = [(digest, url, zlib.compress(text.encode())) for digest, url, text in documents]
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO documents VALUES (?, ?, ?)", rows)

    def document(self, digest: str) -> str | None:
        """Return a document by its SHA-256, such as the robots.txt that a record names."""
        row = self._database.execute(
            "SELECT text FROM documents WHERE hash = ?", (digest,)
        ).fetchone()
        return zlib.decompress(row[0]).decode() if row else None

    # Removal

    def removed_hosts(self) -> list[str]:
        """Return the hosts that asked for removal."""
        return [host for (host,) in self._database.execute("SELECT host FROM removed_hosts")]

    def is_removed(self, url: str) -> bool:
        """Return True if a URL or its host was removed."""
        row = self._database.execute(
            "SELECT 1 FROM urls WHERE hash = ? AND state >= ?", (url_hash(url), CONDEMNED)
        ).fetchone()
        return bool(row) or any(is_within(host_of(url), host) for host in self.removed_hosts())

    def condemn(self, urls: Iterable[str], hosts: Sequence[str]) -> None:
        """Mark URLs, and all URLs of hosts, for removal, and keep them from being fetched.

        Pictures are matched by their URL and by the URL that a redirect led to.
        """
        with self._database:
            for url in urls:
                self._condemn_url(url)
            for host in hosts:
                self._condemn_host(host)
            self._database.execute(_DELETE_TEXTS, (CONDEMNED,))
            self._database.execute(
                "UPDATE urls SET state = ?, url = '' WHERE state = ? AND shard IS NULL",
                (REMOVED, CONDEMNED),
            )

    def _condemn_url(self, url: str) -> None:
        digest = url_hash(url)
        self._database.execute(
            "INSERT OR IGNORE INTO urls (hash, url, host) VALUES (?, ?, ?)",
            (digest, _storable(url), host_of(url)),
        )
        self._database.execute(
            "UPDATE urls SET state = ? WHERE state < ? AND (hash = ? OR final_hash = ?)",
            (CONDEMNED, CONDEMNED, digest, digest),
        )

    def _condemn_host(self, host: str) -> None:
        self._database.execute("INSERT OR IGNORE INTO removed_hosts VALUES (?)", (host.lower(),))
        self._database.create_function(
            "is_of_host", 1, lambda authority: bool(authority) and is_within(authority, host)
        )
        self._database.execute(
            "UPDATE urls SET state = ? WHERE state < ? AND (is_of_host(host) "
            "OR is_of_host(final_host))",
            (CONDEMNED, CONDEMNED),
        )

    def condemned(self, shard: int | None = None) -> list[Removal]:
        """Return the pictures that are still to be removed, in all shards or in one."""
        rows = self._database.execute(
            "SELECT url, shard, json_extract(record, '$.key'), run FROM urls WHERE state = ? "
            "AND (? IS NULL OR shard = ?) ORDER BY shard, position",
            (CONDEMNED, shard, shard),
        )
        return [Removal(*row) for row in rows]

    def forget(self, shard: int) -> None:
        """Record that condemned pictures are no more in a shard, and erase all but their hashes."""
        with self._database:
            self._database.execute(
                "UPDATE urls SET state = ?, url = '', record = NULL WHERE state = ? AND shard = ?",
                (REMOVED, CONDEMNED, shard),
            )


def _storable(text: str) -> str:
    """Return text that UTF-8 can encode."""
    return text.encode("utf-8", "replace").decode()
