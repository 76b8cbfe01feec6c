"""Names and docstrings are plain technical English (the rules: docs/architecture.md, "Names")."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VAGUE = frozenset(
    """one some found said told own given there known other others rest both asked seen wanted left
    part parts gone around above again way place places what who same first last hand_on take_in
    looks exam lesson trust give like within everywhere nearby nothing""".split()
)
OPENINGS = frozenset(("What", "How", "Whether", "Where", "That"))
ROOMS = [
    *sorted(path.relative_to(ROOT) for path in (ROOT / "twotower").glob("*") if path.is_dir()),
    *map(Path, ("recipes", "benchmarks", "examples", "docs", "tests")),
]


def files_of(room: Path) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a file gives to variables, parameters, attributes, functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno


def docstrings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text, getattr(node, "lineno", 1)


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_names_are_not_pronouns_or_participles(room: Path) -> None:
    vague = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in files_of(room)
        for name, line in bound_names(ast.parse(path.read_text(encoding="utf-8")))
        if name.strip("_").lower() in VAGUE
    ]
    assert not vague, "\n".join(vague)


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_docstrings_begin_with_a_verb_or_a_noun(room: Path) -> None:
    riddles = [
        f"{path.relative_to(ROOT)}:{line} {text.splitlines()[0]}"
        for path in files_of(room)
        for text, line in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if text.split()[0] in OPENINGS
    ]
    assert not riddles, "\n".join(riddles)
