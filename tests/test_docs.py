"""The commands, figures and links of the documentation are true."""

import csv
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from twotower.cli.main import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = ROOT / "benchmarks" / "results"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands_with_output() -> list[tuple[str, list[str]]]:
    """Return the commands of the README that are followed by their output."""
    pairs: list[tuple[str, list[str]]] = []
    for block in blocks("console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                pairs.append((line.removeprefix("$ "), []))
            else:
                pairs[-1][1].append(line)
    return [(command, output) for command, output in pairs if output]


@pytest.mark.parametrize(("command", "output"), commands_with_output())
def test_the_output_of_commands_is_theirs(command: str, output: list[str]) -> None:
    program, *arguments = shlex.split(command)
    assert program == "twotower"
    completed = subprocess.run(
        [sys.executable, "-m", "twotower", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    lines = completed.stdout.splitlines()
    assert [words(line) for line in lines] == [words(line) for line in output]
    for line, expected in zip(lines, output, strict=True):
        assert percents(line) == pytest.approx(percents(expected), abs=2)


def words(line: str) -> str:
    return re.sub(r"\d+%", "%", line)


def percents(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"(\d+)%", line)]


def test_there_is_output_to_see() -> None:
    assert len(commands_with_output()) >= 2


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    for name in ("cat.jpg", "dog.jpg"):
        shutil.copy(ROOT / "examples" / "photos" / name, tmp_path)
    [code] = blocks("python")
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith("cat.jpg Label(label='cat'")


def test_every_command_is_in_a_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    actions = build_parser()._subparsers._group_actions  # type: ignore[union-attr]
    for command in actions[0].choices:
        assert f"twotower {command}" in text, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def result(file: str, name: str, column: str) -> float:
    with (RESULTS / file).open(newline="") as lines:
        [row] = [row for row in csv.DictReader(lines) if name in row.values()]
    return float(row[column])


def bundled(title: str, measure: str) -> float:
    """Return a result of the default model from the CSV of `twotower evaluate`."""
    with (RESULTS / "bundled.csv").open(newline="") as lines:
        [row] = [
            row
            for row in csv.DictReader(lines)
            if title in row["set"] and row["measure"] == measure and row["model"] == "twotower-base"
        ]
    return float(row["value"])


def test_figures_are_the_measured_ones() -> None:
    times = result("tokenizer.csv", "twotower", "times_openai")
    seconds = result("startup.csv", "import, load, first text", "median_seconds")
    cifar = bundled("CIFAR-10", "top1")
    recall = bundled("flickr8k-val", "text_to_image.recall_at_1")
    texts = result("texts.csv", "twotower encode_text", "ratio")
    figures = (
        f"{times:.1f} times as fast",
        f"{seconds:.2f} s",
        f"{cifar:.1%}".replace("%", " %"),
        f"{recall:.1%}".replace("%", " %"),
        f"{texts:.1f} times as many",
    )
    for figure in figures:
        assert figure in README, figure


def test_the_heat_map_points_as_measured() -> None:
    right, low, high = (
        100 * result("explain.csv", "twotower-small", column)
        for column in ("right_half", "low", "high")
    )
    text = (ROOT / "docs" / "measurements" / "search.md").read_text(encoding="utf-8")
    assert f"{right:.1f} % ({low:.1f}-{high:.1f}; chance is 50 %" in text
