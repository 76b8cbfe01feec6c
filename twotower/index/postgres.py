"""Vectors in PostgreSQL with its extension pgvector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from twotower.arrays import Float32Array, Int64Array
from twotower.errors import LibraryError
from twotower.index.vectors import hide_password, positions_of, scores_of_pages
from twotower.progress import ReportProgress, ignore_progress

SCHEMES = ("postgresql://", "postgres://")
TABLE = "twotower"

_Result = TypeVar("_Result")

_BATCH = 10_000  # rows in one message
# Seconds, and of the last milliseconds, after which a silent server counts as unreachable.
_TIMEOUTS = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 60_000}
# Numbers up to which a vector is stored in its row, in a page of 8 KB: so a scan is fastest.
_MAX_INLINE = 1900
# pgvector searches this many candidates of its HNSW index for each result, and at most 1000.
_CANDIDATES, _MIN_CANDIDATES, _MAX_CANDIDATES = 4, 100, 1000

# The binary format of COPY: https://www.postgresql.org/docs/current/sql-copy.html
_COPY_START = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"
_ID_ROW = [("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i8")]


class PostgresVectors:
    """Vectors in a table of PostgreSQL, which is created if it is missing.

    Searches are exact scans unless `build_lists` was called. Every call is one transaction; a
    connection that was lost, as after a restart of the server, is opened again.
    """

    def __init__(self, address: str, embed_dim: int, name: str = "") -> None:
        """Connect to `postgresql://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE`, a URI of libpq.

        Args:
            name: appended to the name of the table.

        Raises:
            LibraryError: psycopg or pgvector is not installed, the server cannot be reached, or the
                table holds vectors of another length.
        """
        self._address, self.embed_dim = hide_password(address), embed_dim
        try:
            import psycopg
        except ImportError:
            raise LibraryError(
                self._address, "PostgreSQL needs more packages", "pip install 'twotower[postgres]'"
            ) from None
        self._options = {**_TIMEOUTS, **self._parse(address)}
        self._connection: psycopg.Connection | None = None
        self._name = f"{TABLE}_{name}" if name else TABLE
        self._id_type = np.dtype(_ID_ROW)
        self._row_type = np.dtype(
            [
                *_ID_ROW,
                ("embeds_bytes", ">i4"),
                ("length", ">i2"),
                ("unused", ">i2"),
                ("embeds", ">f4", (embed_dim,)),
            ]
        )
        self._run(self._open_table)

    def __len__(self) -> int:
        return int(self._value("SELECT count(*) FROM {table}"))

    def ids(self) -> Int64Array:
        """See `Vectors.ids`."""
        rows = self._run(lambda cursor: self._read(cursor, "SELECT id FROM {table}", self._id_type))
        return rows["id"].astype(np.int64)

    def add(self, ids: Int64Array, embeds: Float32Array) -> None:
        """See `Vectors.add`."""
        for start in range(0, len(ids), _BATCH):
            end = start + _BATCH
            rows = self._encode_rows(ids[start:end], embeds[start:end])
            removed = ids[start:end].tolist()

            def replace(cursor: Any, removed: list[int] = removed, rows: bytes = rows) -> None:
                cursor.execute(self._sql("DELETE FROM {table} WHERE id = ANY(%s)"), [removed])
                command = "COPY {table} (id, embeds) FROM STDIN (FORMAT BINARY)"
                with cursor.copy(self._sql(command)) as copy:
                    copy.write(_COPY_START + rows + _COPY_END)

            self._run(replace)

    def remove(self, ids: Int64Array) -> None:
        """See `Vectors.remove`."""
        query = self._sql("DELETE FROM {table} WHERE id = ANY(%s)")
        self._run(lambda cursor: cursor.execute(query, [ids.tolist()]))

    def get(self, ids: Int64Array) -> Float32Array:
        """See `Vectors.get`."""
        query = "SELECT id, embeds FROM {table} WHERE id = ANY(%s)"
        rows = self._run(lambda cursor: self._read(cursor, query, self._row_type, [ids.tolist()]))
        positions = positions_of(ids, rows["id"].astype(np.int64), self._address)
        return rows["embeds"][positions].astype(np.float32)

    def search(
        self, query: Float32Array, top: int, allowed: Int64Array | None = None
    ) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.search`."""
        parameters = {
            "query": str(query.tolist()),
            "top": top,
            "allowed": None if allowed is None else allowed.tolist(),
        }
        condition = "true" if allowed is None else "id = ANY(%(allowed)s)"
        command = (
            "SELECT id, -(embeds <#> %(query)s::vector) FROM {source} "
            f"WHERE {condition} ORDER BY embeds <#> %(query)s::vector, id LIMIT %(top)s"
        )
        nearest = (
            "(SELECT id, embeds FROM {table} "
            f"WHERE {condition} "
            f"ORDER BY {self._half('embeds')} <#> {self._half('%(query)s::vector')} "
            "LIMIT %(candidates)s) AS nearest"
        )

        def run(cursor: Any) -> list[tuple[int, float]]:
            if top <= _MAX_CANDIDATES and self._has_index(cursor):
                parameters["candidates"] = self._prepare_index(cursor, top)
                approximate = self._sql(command.replace("{source}", nearest))
                rows = cursor.execute(approximate, parameters).fetchall()
                if len(rows) == top:
                    return rows  # else a filter hid most candidates, or there are no more
            cursor.execute("SET LOCAL enable_indexscan = off")  # of an index that others made
            exact = self._sql(command.replace("{source}", "{table}"))
            return cursor.execute(exact, parameters).fetchall()

        rows = self._run(run)
        return np.array([row[0] for row in rows], np.int64), np.array(
            [row[1] for row in rows], np.float32
        )

    def scores(self, queries: Float32Array) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.scores`."""
        return scores_of_pages(queries, self._pages())

    def build_lists(self, queries: Float32Array, report: ReportProgress = ignore_progress) -> None:
        """Build an HNSW index of half-precision vectors; it is kept up to date by PostgreSQL.

        A search scores its candidates by the float32 vectors: see `Vectors.build_lists`.
        """
        command = "CREATE INDEX IF NOT EXISTS {index} ON {table} USING hnsw ((%s) halfvec_ip_ops)"
        self._run(lambda cursor: cursor.execute(self._sql(command % self._half("embeds"))))

    def drop(self) -> None:
        """See `Vectors.drop`."""
        self._run(lambda cursor: cursor.execute(self._sql("DROP TABLE IF EXISTS {table}")))
        self.close()

    def close(self) -> None:
        """See `Vectors.close`."""
        if self._connection is not None:
            self._connection.close()

    def _parse(self, address: str) -> dict[str, Any]:
        """Return the parameters of a URI.

        Raises:
            LibraryError: it cannot be read; libpq would name a part of a password as the host.
        """
        import psycopg

        user = address.partition("://")[2].partition("?")[0].rpartition("@")[0]
        try:
            if "@" in user or "/" in user:
                raise psycopg.ProgrammingError
            return psycopg.conninfo.conninfo_to_dict(address)
        except psycopg.ProgrammingError:
            raise LibraryError(
                self._address,
                "cannot be read",
                f"write {SCHEMES[0]}HOST:PORT/DATABASE, and @ or / in a password as %40 or %2F",
            ) from None

    # The table

    def _open_table(self, cursor: Any) -> None:
        """Check the table, or create it with the extension.

        Raises:
            LibraryError: it holds vectors of another length.
        """
        if self._table_length(cursor) is None:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [TABLE])  # one creates
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
            storage = "PLAIN" if self.embed_dim <= _MAX_INLINE else "EXTERNAL"
            for command in (
                "CREATE TABLE IF NOT EXISTS {table} "
                f"(id bigint PRIMARY KEY, embeds vector({self.embed_dim}) NOT NULL)",
                f"ALTER TABLE {{table}} ALTER COLUMN embeds SET STORAGE {storage}",
            ):
                cursor.execute(self._sql(command))
        if self._table_length(cursor) != self.embed_dim:
            raise LibraryError(
                self._address,
                f"its table {self._name} does not hold vectors of {self.embed_dim} numbers",
                "name another database",
            )

    def _table_length(self, cursor: Any) -> int | None:
        """Return the length of the vectors in the table; None if there is no table."""
        row = cursor.execute(
            "SELECT atttypmod FROM pg_attribute "
            "WHERE attrelid = to_regclass(quote_ident(%s)) AND attname = 'embeds'",
            [self._name],
        ).fetchone()
        return None if row is None else int(row[0])

    def _has_index(self, cursor: Any) -> bool:
        query = "SELECT to_regclass(quote_ident(%s)) IS NOT NULL"
        return bool(cursor.execute(query, [f"{self._name}_hnsw"]).fetchone()[0])

    def _prepare_index(self, cursor: Any, top: int) -> int:
        """Set how thoroughly this transaction searches the index; return its number of candidates.

        An iterative scan goes on until enough candidates pass the filter, or it gives up.
        """
        candidates = min(max(_CANDIDATES * top, _MIN_CANDIDATES), _MAX_CANDIDATES)
        cursor.execute(f"SET LOCAL hnsw.ef_search = {candidates}")
        cursor.execute("SET LOCAL hnsw.iterative_scan = relaxed_order")
        return candidates

    def _half(self, value: str) -> str:
        return f"{value}::halfvec({self.embed_dim})"

    # Rows and transactions

    def _pages(self) -> Iterator[tuple[Int64Array, Float32Array]]:
        """Yield all ids [n] and embeds [n, embed_dim], by id."""
        query = "SELECT id, embeds FROM {table} WHERE id > %s ORDER BY id LIMIT %s"
        highest_id = 0

        def page(cursor: Any) -> Any:
            return self._read(cursor, query, self._row_type, [highest_id, _BATCH])

        while len(rows := self._run(page)):
            yield rows["id"].astype(np.int64), rows["embeds"].astype(np.float32)
            highest_id = int(rows["id"][-1])

    def _encode_rows(self, ids: Int64Array, embeds: Float32Array) -> bytes:
        """Return rows in the binary format of COPY, which keeps every bit of the vectors."""
        rows = np.zeros(len(ids), self._row_type)
        rows["fields"], rows["id_bytes"], rows["id"] = 2, 8, ids
        rows["embeds_bytes"] = 4 + 4 * self.embed_dim
        rows["length"], rows["embeds"] = self.embed_dim, embeds
        return rows.tobytes()

    def _read(self, cursor: Any, query: str, row_type: Any, parameters: Any = None) -> Any:
        """Return the rows of a query as an array of `row_type` [n]."""
        command = self._sql(f"COPY ({query}) TO STDOUT (FORMAT BINARY)")
        with cursor.copy(command, parameters) as copy:
            content = b"".join(copy)
        return np.frombuffer(content[len(_COPY_START) : -len(_COPY_END)], row_type)

    def _value(self, query: str) -> Any:
        return self._run(lambda cursor: cursor.execute(self._sql(query)).fetchone()[0])

    def _sql(self, command: str) -> Any:
        from psycopg.sql import SQL, Identifier

        index = Identifier(f"{self._name}_hnsw")
        return SQL(command).format(table=Identifier(self._name), index=index)

    def _run(self, operation: Callable[[Any], _Result]) -> _Result:
        """Run an operation in one transaction, and again if its connection was lost.

        Raises:
            LibraryError: the server cannot be reached, or refuses it.
        """
        import psycopg

        while True:
            was_open = self._connection is not None and not self._connection.closed
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg.connect(
                        **self._options,
                        autocommit=True,
                        prepare_threshold=None,  # each set of allowed ids has a plan of its own
                    )
                with self._connection.transaction(), self._connection.cursor() as cursor:
                    return operation(cursor)
            except psycopg.Error as error:
                if was_open and self._connection is not None and self._connection.closed:
                    continue
                raise self._describe(error) from None

    def _describe(self, error: Exception) -> LibraryError:
        """Return an error of PostgreSQL as one for users."""
        from psycopg import errors

        reason = next(iter(str(error).splitlines()), type(error).__name__)
        remedy = "check the address and the server, then run the command again"
        if isinstance(error, errors.FeatureNotSupported | errors.UndefinedFile):
            remedy = "install pgvector where the server runs (Debian: postgresql-NN-pgvector)"
        elif isinstance(error, errors.InsufficientPrivilege):
            remedy = "let an administrator run there: CREATE EXTENSION vector, and grant CREATE"
        elif isinstance(error, errors.DiskFull):
            remedy = "make room where the server runs, then run the command again"
        return LibraryError(self._address, f"PostgreSQL says: {reason}", remedy)
