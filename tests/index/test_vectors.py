"""The protocol `Vectors`, for each store: no vector is lost, doubled or under another id."""

import fcntl
import secrets
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.index.postgres import PostgresServer
from twotower.errors import LibraryError
from twotower.index.index import open_vectors
from twotower.index.vectors import Vectors, hide_password, split_address

DIM = 16
STORES = ("local", "milvus", "postgres", "qdrant")
FAR = 2**40  # ids of a library grow, and are no 32-bit numbers

OpenVectors = Callable[[int], Vectors]


def unit(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def row_of(number: int) -> np.ndarray:
    """Return the vector that belongs to an id in these tests."""
    return unit(1, seed=number)[0]


def rows_of(ids: list[int]) -> np.ndarray:
    return np.stack([row_of(number) for number in ids])


def location_of(store: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """Return the location of a store, as `open_vectors` takes it."""
    if store == "milvus":
        pytest.importorskip("milvus_lite", reason="pip install 'twotower[milvus]'")
        return f"{folder}/vectors.db"
    if store == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.address()
    if store == "qdrant":
        pytest.importorskip("qdrant_client", reason="pip install 'twotower[qdrant]'")
        return f"qdrant://{request.getfixturevalue('memory_folder')}"
    return f"{folder}/vectors"


@pytest.fixture(params=STORES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenVectors]:
    """A function that opens the same store, for vectors of some length."""
    location, name = location_of(request.param, tmp_path, request), secrets.token_hex(4)
    opened: list[Vectors] = []

    def open_again(embed_dim: int = DIM) -> Vectors:
        opened.append(open_vectors(location, embed_dim, name))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()


@pytest.fixture(params=[*STORES, "without simsimd"])
def vectors(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Vectors]:
    if request.param == "without simsimd":
        monkeypatch.setitem(sys.modules, "simsimd", None)
    location = location_of(request.param, tmp_path, request)
    opened = open_vectors(location, DIM, secrets.token_hex(4))
    yield opened
    opened.drop()


def test_an_empty_store(vectors: Vectors) -> None:
    assert len(vectors) == 0 and len(vectors.ids()) == 0
    ids, scores = vectors.search(row_of(1), 5)
    assert len(ids) == len(scores) == 0
    ids, scores = vectors.scores(unit(3))
    assert scores.shape == (3, 0)
    vectors.remove(np.array([1]))
    vectors.add(np.zeros(0, np.int64), np.zeros((0, DIM), np.float32))
    assert len(vectors) == 0


def test_adding_replacing_and_removing(vectors: Vectors) -> None:
    vectors.add(np.array([3, 1, 7]), np.stack([row_of(3), row_of(1), row_of(70)]))
    vectors.add(np.array([7, 9]), rows_of([7, 9]))
    vectors.remove(np.array([1, 5]))
    vectors.add(np.array([4]), row_of(4)[None])
    assert sorted(vectors.ids().tolist()) == [3, 4, 7, 9] and len(vectors) == 4
    np.testing.assert_array_equal(vectors.get(np.array([9, 3, 4, 7])), rows_of([9, 3, 4, 7]))
    assert vectors.get(np.zeros(0, np.int64)).shape == (0, DIM)
    for ids in ([3, 1], [99]):
        with pytest.raises(LibraryError, match="twotower index"):
            vectors.get(np.array(ids))
    nearest, _ = vectors.search(row_of(1), 10)
    assert set(nearest.tolist()) == {3, 4, 7, 9}, "a removed vector is not found"


def test_repeated_ids(vectors: Vectors) -> None:
    vectors.add(np.array([3, 1, 7]), rows_of([3, 1, 7]))
    np.testing.assert_array_equal(vectors.get(np.array([7, 3, 7, 7])), rows_of([7, 3, 7, 7]))
    ids, _ = vectors.search(row_of(3), 10, np.array([7, 3, 7, 3]))
    assert ids.tolist() == [3, 7]
    vectors.remove(np.array([7, 1, 7]))
    assert vectors.ids().tolist() == [3]


def test_large_ids(vectors: Vectors) -> None:
    ids = [FAR + 1, 2, 2**31, 2**32 + 2, FAR]
    vectors.add(np.array(ids), rows_of([1, 2, 3, 4, 5]))
    vectors.remove(np.array([FAR]))
    assert sorted(vectors.ids().tolist()) == sorted(ids[:-1])
    np.testing.assert_array_equal(vectors.get(np.array(ids[:-1])), rows_of([1, 2, 3, 4]))
    assert vectors.search(row_of(4), 1)[0].tolist() == [2**32 + 2]
    allowed = np.array([2, FAR, FAR + 1])
    assert set(vectors.search(row_of(4), 9, allowed)[0].tolist()) == {2, FAR + 1}


def test_vectors_keep_their_bits_and_length(vectors: Vectors) -> None:
    rows = unit(200)
    rows[0] = np.eye(DIM)[0]
    rows[1] = -rows[0]
    rows[2] = np.float32([1 - 1e-7, *[1e-20] * (DIM - 1)])
    vectors.add(np.arange(1, 201), rows)
    stored = vectors.get(np.arange(1, 201))
    assert stored.dtype == np.float32
    assert stored.tobytes() == rows.tobytes()
    ids, scores = vectors.search(rows[0], 200)
    assert {1, 3} == set(ids[:2].tolist()) and ids[-1] == 2
    np.testing.assert_allclose(scores[[0, -1]], [1, -1], atol=1e-6)


def test_search_is_exact(vectors: Vectors) -> None:
    rows = unit(700)
    ids = np.random.default_rng(1).permutation(700) + 5
    vectors.add(ids, rows)
    vectors.remove(ids[::7])
    kept = np.ones(700, bool)
    kept[::7] = False
    for seed, top in ((1, 1), (2, 10), (3, 100), (4, 1000)):
        query = unit(1, seed)[0]
        nearest, scores = vectors.search(query, top)
        order = np.argsort(-(rows[kept] @ query))[:top]
        assert nearest.tolist() == ids[kept][order].tolist()
        np.testing.assert_allclose(scores, (rows[kept] @ query)[order], atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_filters(vectors: Vectors, share: float) -> None:
    rows, ids = unit(500), np.arange(1, 501)
    vectors.add(ids, rows)
    chosen = np.random.default_rng(5).random(500) < share
    query = unit(1, 9)[0]
    allowed = np.append(ids[chosen], [0, 999_999])  # and ids that are not stored
    nearest, _ = vectors.search(query, 20, allowed)
    expected = ids[chosen][np.argsort(-(rows[chosen] @ query))[:20]]
    assert nearest.tolist() == expected.tolist()


def test_equal_scores_come_by_id(vectors: Vectors) -> None:
    vectors.add(np.array([5, 2, 9, 4]), np.stack([row_of(1)] * 4))
    ids, _ = vectors.search(row_of(1), 4)
    assert ids.tolist() == [2, 4, 5, 9]


def test_all_scores(vectors: Vectors) -> None:
    rows, ids = unit(300), np.arange(300, 0, -1)
    vectors.add(ids, rows)
    vectors.remove(np.array([17]))
    queries = unit(4, 8)
    stored, scores = vectors.scores(queries)
    order = np.argsort(stored)
    assert stored[order].tolist() == [number for number in range(1, 301) if number != 17]
    np.testing.assert_allclose(scores[:, order], queries @ rows[300 - stored[order]].T, atol=1e-6)


def test_more_vectors_than_fit_into_one_message(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[type(vectors).__module__]
    for limit in ("_BATCH", "_MAX_LOCAL_FILTER"):
        monkeypatch.setattr(module, limit, 7, raising=False)
    rows, ids = unit(50), np.random.default_rng(2).permutation(50) + 1
    vectors.add(ids, rows)
    np.testing.assert_array_equal(vectors.get(ids), rows)
    assert sorted(vectors.ids().tolist()) == list(range(1, 51))
    nearest, _ = vectors.search(rows[4], 30, ids)
    assert nearest.tolist() == ids[np.argsort(-(rows @ rows[4]))[:30]].tolist()
    stored, scores = vectors.scores(rows[:2])
    np.testing.assert_allclose(scores, rows[:2] @ vectors.get(stored).T, atol=1e-6)
    vectors.remove(ids[:40])
    assert sorted(vectors.ids().tolist()) == sorted(ids[40:].tolist())


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sets(st.integers(1, 40), min_size=1, max_size=20)),
        min_size=1,
        max_size=8,
    )
)
def test_every_id_keeps_its_vector(vectors: Vectors, steps: list[tuple[bool, set[int]]]) -> None:
    """Any sequence of additions and removals."""
    vectors.remove(vectors.ids())
    expected: set[int] = set()
    for adding, numbers in steps:
        ids = np.array(sorted(numbers, reverse=True))
        if adding:
            vectors.add(ids, rows_of(ids.tolist()))
            expected |= numbers
        else:
            vectors.remove(ids)
            expected -= numbers
    ids = vectors.ids()
    assert sorted(ids.tolist()) == sorted(expected) and len(vectors) == len(expected)
    for number, row in zip(ids.tolist(), vectors.get(ids), strict=True):
        np.testing.assert_array_equal(row, row_of(number))


def test_vectors_persist(open_store: OpenVectors) -> None:
    store = open_store(DIM)
    store.add(np.array([2, 5]), rows_of([2, 5]))
    store.remove(np.array([2]))
    store.close()
    reopened = open_store(DIM)
    assert reopened.ids().tolist() == [5]
    np.testing.assert_array_equal(reopened.get(np.array([5]))[0], row_of(5))
    reopened.drop()
    assert len(open_store(DIM)) == 0


def test_vectors_of_another_length(open_store: OpenVectors) -> None:
    store = open_store(DIM)
    if type(store).__name__ == "LocalVectors":
        pytest.skip("each model has a folder of its own")
    store.close()
    with pytest.raises(LibraryError, match=r"does not hold vectors of 17 numbers; name another"):
        open_store(DIM + 1)


@pytest.mark.parametrize("store", STORES)
def test_two_libraries_in_one_store(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if store == "local":
        pytest.skip("each library has a folder of its own")
    location = location_of(store, tmp_path, request)
    for name in ("first", "second"):
        opened = open_vectors(location, DIM, name)
        opened.add(np.array([1, 2]), unit(2, seed=len(name)))
        opened.close()
    open_vectors(location, DIM, "first").drop()
    remaining = open_vectors(location, DIM, "second")
    np.testing.assert_array_equal(remaining.get(np.array([1, 2])), unit(2, seed=len("second")))
    remaining.drop()


# Servers

SERVERS = {"milvus": "pymilvus", "postgresql": "psycopg", "qdrant": "qdrant_client"}


@pytest.mark.parametrize("scheme", SERVERS)
def test_a_server_that_cannot_be_reached(scheme: str) -> None:
    pytest.importorskip(SERVERS[scheme])
    with pytest.raises(LibraryError, match=f"^{scheme}://localhost:1/.* says: .*check the address"):
        open_vectors(f"{scheme}://localhost:1/some", DIM)


def test_an_address_without_a_host() -> None:
    for scheme in ("milvus:///some", "qdrant://", "qdrant+https:///some", "qdrant://host:x/some"):
        pytest.importorskip(SERVERS[scheme.partition(":")[0].partition("+")[0]])
        with pytest.raises(LibraryError, match="names no host"):
            open_vectors(scheme, DIM)


@pytest.mark.parametrize("address", ["qdrant://[::1", "milvus://[::1", "milvus://[::1]:x/some"])
def test_brackets_that_do_not_match(address: str) -> None:
    pytest.importorskip(SERVERS[address.partition(":")[0]])
    scheme = address.partition(":")[0]
    with pytest.raises(LibraryError, match=f"names no host; write {scheme}://HOST:PORT"):
        open_vectors(address, DIM)


@pytest.mark.parametrize("scheme", ["milvus", "qdrant"])
def test_a_server_at_an_address_of_ipv6(scheme: str) -> None:
    pytest.importorskip(SERVERS[scheme])
    with pytest.raises(LibraryError, match=r" says: .*check the address"):
        open_vectors(f"{scheme}://[::1]:1/some", DIM)


def test_parts_of_an_address() -> None:
    address = split_address("qdrant://m%40e:se%2Fcr%3Aet@[::1]/some/", 6333)
    assert address == ("[::1]:6333", "m@e", "se/cr:et", "some")
    assert split_address("milvus://host:1", 2) == ("host:1", "", "", "")


def test_an_unknown_store() -> None:
    for address in ("mysql://me:secret@host/some", "mysql://me:secret@host/some.db"):
        with pytest.raises(LibraryError, match="no known store; write postgresql://") as caught:
            open_vectors(address, DIM)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", SERVERS)
def test_schemes_have_no_case(scheme: str) -> None:
    pytest.importorskip(SERVERS[scheme])
    with pytest.raises(LibraryError, match=rf"^{scheme}://me:\*\*\*@.* says: ") as caught:
        open_vectors(f"{scheme.upper()}://me:secret@localhost:1/some", DIM)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "hidden"),
    [
        ("POSTGRESQL://me:secret@host/db", "POSTGRESQL://me:***@host/db"),
        ("Qdrant+HTTPS://:secret@host", "Qdrant+HTTPS://:***@host"),
        ("postgresql://m@e:secret@host/db", "postgresql://m@e:***@host/db"),
        ("postgresql://host/db?user=me&Password=secret&x=1", None),
        ("me:secret@host/db", "me:***@host/db"),
        ("qdrant:/me:secret@host/db", "qdrant:***@host/db"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
        ("qdrant:///folder/a.b", "qdrant:///folder/a.b"),
    ],
)
def test_passwords_are_hidden(address: str, hidden: str | None) -> None:
    assert hide_password(address) == (hidden or address.replace("secret", "***"))


@pytest.mark.parametrize("scheme", SERVERS)
@pytest.mark.parametrize("password", ["secret", "se@c:ret", "se/ret"])
def test_a_password_is_not_shown(scheme: str, password: str) -> None:
    pytest.importorskip(SERVERS[scheme])
    with pytest.raises(LibraryError, match=rf"{scheme}://me:\*\*\*@") as caught:
        open_vectors(f"{scheme}://me:{password}@localhost:1/some", DIM)
    assert "ret" not in str(caught.value)


@pytest.mark.parametrize("scheme", SERVERS)
def test_the_missing_extra_is_named(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, SERVERS[scheme], None)
    extra = scheme.removesuffix("ql")
    with pytest.raises(LibraryError, match=rf"pip install 'twotower\[{extra}\]'"):
        open_vectors(f"{scheme}://localhost:1/some", DIM)


def test_milvus_lite_serves_one_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("milvus_lite", reason="pip install 'twotower[milvus]'")
    (tmp_path / "lite.db").mkdir()
    with (tmp_path / "lite.db" / "LOCK").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as the other process does
        with pytest.raises(LibraryError, match="another process has it open"):
            open_vectors(f"{tmp_path}/lite.db", DIM)
    assert not caplog.records


def test_a_folder_of_qdrant_serves_one_process(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client", reason="pip install 'twotower[qdrant]'")
    opened = open_vectors(f"qdrant://{tmp_path}/store", DIM)
    with pytest.raises(LibraryError, match="another process has it open"):
        open_vectors(f"qdrant://{tmp_path}/store", DIM)
    opened.close()


def test_faults_of_a_folder_of_qdrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other errors of the client do not say that another process has the folder open."""
    client = pytest.importorskip("qdrant_client", reason="pip install 'twotower[qdrant]'")
    opened = open_vectors(f"qdrant://{tmp_path}/store", DIM)
    database = tmp_path / "store" / "collection" / "twotower" / "storage.sqlite"
    assert database.exists()
    for error, kind, message in (
        (sqlite3.OperationalError("database or disk is full"), LibraryError, "disk is full.*room"),
        (RuntimeError("no event loop"), RuntimeError, "^no event loop$"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(client.QdrantClient, "upsert", Mock(side_effect=error))
            with pytest.raises(kind, match=message):
                opened.add(np.array([1]), rows_of([1]))
    opened.close()


@pytest.mark.parametrize(("distance", "is_usable"), [("Cosine", True), ("Euclid", False)])
def test_a_collection_of_another_distance(tmp_path: Path, distance: str, is_usable: bool) -> None:
    client = pytest.importorskip("qdrant_client", reason="pip install 'twotower[qdrant]'")
    writer = client.QdrantClient(path=f"{tmp_path}/store")
    parameters = client.models.VectorParams(size=DIM, distance=client.models.Distance(distance))
    writer.create_collection("twotower", vectors_config=parameters)
    writer.close()
    if is_usable:
        open_vectors(f"qdrant://{tmp_path}/store", DIM).close()
        return
    with pytest.raises(LibraryError, match="twotower compares vectors by the distance Euclid"):
        open_vectors(f"qdrant://{tmp_path}/store", DIM)


# PostgreSQL


def test_a_lost_connection_is_opened_again(postgres: PostgresServer) -> None:
    store = open_vectors(postgres.address(), DIM, secrets.token_hex(4))
    store.add(np.array([1]), rows_of([1]))
    for crash in (False, True):
        postgres.stop(crash=crash)
        with pytest.raises(LibraryError, match="run the command again"):
            store.add(np.array([2]), rows_of([2]))
        postgres.start()
        assert store.ids().tolist() == [1], "what was committed is there, and nothing else"
    store.add(np.array([2]), rows_of([2]))
    assert sorted(store.ids().tolist()) == [1, 2]
    store.drop()


def test_a_batch_is_stored_whole_or_not_at_all(postgres: PostgresServer) -> None:
    store = open_vectors(postgres.address(), DIM, secrets.token_hex(4))
    store.add(np.array([1, 2]), rows_of([1, 2]))
    with pytest.raises(LibraryError, match="PostgreSQL says: duplicate key"):
        store.add(np.array([1, 3, 3]), rows_of([10, 11, 12]))
    np.testing.assert_array_equal(store.get(np.array([1, 2])), rows_of([1, 2]))
    assert len(store) == 2
    store.drop()


def test_an_account_that_may_only_read(postgres: PostgresServer) -> None:
    """It searches, and gets an error for what it may not do."""
    import psycopg

    name = secrets.token_hex(4)
    owner = open_vectors(postgres.address(), DIM, name)
    owner.add(np.array([1, 2]), rows_of([1, 2]))
    role = f"reader_{name}"
    with psycopg.connect(postgres.address(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(f"GRANT SELECT ON twotower_{name} TO {role}")
    address = postgres.address().replace("tester", role)
    reader = open_vectors(address, DIM, name)
    assert reader.search(row_of(2), 1)[0].tolist() == [2]
    for change in (lambda: reader.remove(np.array([1])), lambda: open_vectors(address, DIM, "new")):
        with pytest.raises(LibraryError, match=r"permission denied .*; let an administrator"):
            change()
    reader.close()
    owner.drop()


def test_approximate_search_in_postgres(postgres: PostgresServer) -> None:
    store = open_vectors(postgres.address(), DIM, secrets.token_hex(4))
    rows, ids = unit(3000), np.arange(1, 3001)
    store.add(ids, rows)
    store.build_lists(unit(1))
    matches = 0
    for query in unit(30, seed=7):
        nearest, scores = store.search(query, 10)
        np.testing.assert_allclose(scores, rows[nearest - 1] @ query, atol=1e-6)
        matches += len(set(nearest.tolist()) & set((np.argsort(-(rows @ query))[:10] + 1).tolist()))
    assert matches >= 270, "nine tenths of the nearest"
    for allowed in (ids[::2], ids[:15], np.argsort(rows @ query)[:40] + 1):
        nearest, _ = store.search(query, 10, allowed)
        assert len(nearest) == 10 and set(nearest.tolist()) <= set(allowed.tolist())
    store.drop()


def test_an_index_that_others_made_changes_no_result(postgres: PostgresServer) -> None:
    import psycopg

    name = secrets.token_hex(4)
    store = open_vectors(postgres.address(), DIM, name)
    rows = unit(20_000)
    store.add(np.arange(1, 20_001), rows)
    with psycopg.connect(postgres.address(), autocommit=True) as connection:
        connection.execute(
            f"CREATE INDEX ON twotower_{name} USING ivfflat (embeds vector_ip_ops) WITH (lists=99)"
        )
        connection.execute(f"ANALYZE twotower_{name}")
    for query in unit(5, seed=3):
        expected = np.argsort(-(rows @ query))[:10] + 1
        assert store.search(query, 10)[0].tolist() == expected.tolist()
    store.drop()


def test_a_server_without_pgvector(postgres: PostgresServer) -> None:
    import psycopg

    with psycopg.connect(postgres.address(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    control = postgres.installation / "share" / "postgresql" / "extension" / "vector.control"
    control.rename(control.with_suffix(".away"))
    try:
        with pytest.raises(LibraryError, match="is not available; install pgvector where the"):
            open_vectors(postgres.address("empty"), DIM)
    finally:
        control.with_suffix(".away").rename(control)


@pytest.mark.parametrize("store", ["milvus", "qdrant"])
def test_stores_without_approximate_search(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    opened = open_vectors(location_of(store, tmp_path, request), DIM)
    with pytest.raises(LibraryError, match=r"^--approximate: applies to local vectors"):
        opened.build_lists(unit(1))
    opened.close()
