"""Write the results of benchmarks as CSV, and copy them into the marked tables of the docs.

    python benchmarks/table.py

fills every table of the docs that shows a whole file of results. A page marks a table by comments,
and the text between them is replaced:

    <!-- table: results/detectors.csv -->

    <!-- end of table -->
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from twotower.files import atomic_write

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def main() -> None:
    fill_tables({name: whole_table(name) for name in marked_tables() if name.endswith(".csv")})


def write_results(file: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write and print the rows of `results/FILE`, and fill the table that shows this file."""
    lines = [[str(value) for value in row] for row in rows]
    with atomic_write(RESULTS / file) as output:
        csv.writer(output).writerows([columns, *lines])
    for line in lines:
        print(*line)
    fill_tables({f"results/{file}": to_markdown(columns, lines)})


def read_results(file: str) -> list[dict[str, str]]:
    """Return the rows of `results/FILE`; none if it does not exist."""
    if not (RESULTS / file).exists():
        return []
    with (RESULTS / file).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def to_markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    lines.insert(1, "|" + "---|" * len(columns))
    return "\n".join(lines)


def whole_table(name: str) -> str:
    """Return the table of a file, such as "results/detectors.csv"."""
    with (RESULTS.parent / name).open(newline="", encoding="utf-8") as file:
        columns, *rows = csv.reader(file)
    return to_markdown(columns, rows)


def fill_tables(tables: Mapping[str, str]) -> None:
    """Replace the text of marked tables.

    Args:
        tables: the new text by the name in the mark; names that no page marks are ignored.
    """
    for page in pages():
        text = page.read_text(encoding="utf-8")
        filled = MARKED.sub(
            lambda mark: f"{mark[1]}\n{tables.get(mark[2], mark[3].strip())}\n\n{mark[4]}", text
        )
        if filled != text:
            with atomic_write(page) as file:
                file.write(filled)


def marked_tables() -> dict[str, str]:
    """Return the text of each marked table of the docs by its name."""
    return {
        mark[2]: mark[3].strip()
        for page in pages()
        for mark in MARKED.finditer(page.read_text(encoding="utf-8"))
    }


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


if __name__ == "__main__":
    main()
