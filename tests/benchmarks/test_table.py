"""Check that the marked tables of the docs show the stored results."""

from pathlib import Path

import pytest

from benchmarks import table
from benchmarks.quality import asking


def test_tables_of_whole_files_are_their_rows() -> None:
    files = {name: text for name, text in table.marked_tables().items() if name.endswith(".csv")}
    assert len(files) >= 5
    for name, text in files.items():
        assert text == table.whole_table(name), f"{name}: run python benchmarks/table.py"


def test_tables_of_questions_are_their_rows() -> None:
    rows = [row for set_name, _ in asking.TABLES.values() for row in asking.stored_rows(set_name)]
    tables = asking.markdown_tables(rows)
    assert tables.keys() == asking.TABLES.keys()
    shown = table.marked_tables()
    for name, text in tables.items():
        assert text == shown[name], name


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "page.md"
    path.write_text(
        "before\n<!-- table: results/a.csv -->\n\n| old |\n\n<!-- end of table -->\n"
        "between\n<!-- table: results/b.csv, kinds -->\n<!-- end of table -->\nafter\n"
    )
    monkeypatch.setattr(table, "pages", lambda: [path])
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return path


def test_results_are_written_printed_and_shown(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write_results("a.csv", ("name", "n"), [("cat", 3), ("dog, small", 4)])
    assert (page.parent / "results/a.csv").read_text() == 'name,n\ncat,3\n"dog, small",4\n'
    assert capsys.readouterr().out == "cat 3\ndog, small 4\n"
    assert (
        "\n\n| name | n |\n|---|---|\n| cat | 3 |\n| dog, small | 4 |\n\n<!--" in page.read_text()
    )
    assert table.read_results("a.csv")[1] == {"name": "dog, small", "n": "4"}
    assert table.read_results("none.csv") == []


def test_other_text_stays(page: Path) -> None:
    before = page.read_text()
    table.fill_tables({"results/b.csv, kinds": "$1 \\1", "results/none.csv": "x"})
    after = page.read_text()
    assert after == before.replace("kinds -->\n", "kinds -->\n\n$1 \\1\n\n")
