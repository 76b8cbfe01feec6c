"""Read and write vocabularies."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from twotower.errors import TaggingError
from twotower.tagging.vocabulary import COLUMNS, DETECTORS, SHIPPED, Tag, TagPath, Vocabulary, _key


class _Line(NamedTuple):
    """What a line says: how deep it stands in the tree (0 for the top), and its text."""

    number: int
    depth: int
    text: str


@dataclass
class _Draft:
    """A tag while its file is read; `line` is None while only a longer path has named it."""

    path: TagPath
    line: int | None = None
    synonyms: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    negatives: list[str] = field(default_factory=list)
    heading: bool = False
    one: bool = False
    detector: str | None = None


def read_vocabulary(path: str | Path | None = None) -> Vocabulary:
    """Read a `.txt`, `.csv`, `.yaml` or `.json` vocabulary; by default the shipped one.

    Raises:
        VocabularyError: with the file and line that make no sense.
        OSError: the file cannot be read.
    """
    path = Path(path) if path is not None else SHIPPED
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise TaggingError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    kind = path.suffix.lower()
    return parse_vocabulary(text, kind.lstrip(".") or "txt", str(path))


def parse_vocabulary(text: str, kind: str = "txt", source: str = "vocabulary") -> Vocabulary:
    """Parse the text of a vocabulary; `source` is named in errors. Raises `VocabularyError`."""
    builder = _Builder(source)
    if kind == "csv":
        _read_csv(text, builder)
    elif kind in ("yaml", "yml", "json"):
        _read_lines(_yaml_lines(text, source), builder)
    elif kind in ("txt", "text"):
        _read_lines(_text_lines(text, source), builder)
    else:
        raise TaggingError(
            f"{source}: not a vocabulary by its name; use .txt, .csv, .yaml or .json"
        )
    return builder.finish()


def format_vocabulary(vocabulary: Vocabulary) -> str:
    """The text form, which `parse_vocabulary` reads back to the same."""
    lines = []
    for tag in vocabulary.tags:
        indent = "\t" * (len(tag.path) - 1)
        name = f"{tag.name} (one)" if tag.one else f"[{tag.name}]" if tag.heading else tag.name
        lines.append(indent + " ".join([name, *(f"{{{one}}}" for one in tag.synonyms)]))
        lines += [f"{indent}\t+ {one}" for one in tag.descriptions]
        lines += [f"{indent}\t- {one}" for one in tag.negatives]
        lines += [f"{indent}\t@{tag.detector}"] if tag.detector else []
    return "\n".join(lines) + "\n"


class _Builder:
    """Puts a vocabulary together, and says what does not fit."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.drafts: dict[TagPath, _Draft] = {}

    def error(self, line: int, message: str) -> TaggingError:
        return TaggingError(f"{self.source} line {line}: {message}")

    def add(self, line: int, path: TagPath) -> _Draft:
        """The draft of a tag that stands on a line, behind those of its ancestors."""
        path = tuple(self._name(line, name) for name in path)
        for end in range(1, len(path) + 1):
            name = path[end - 1].casefold()
            if name in _key(path[: end - 1]):
                raise self.error(line, f"{path[end - 1]!r} lies below itself; rename one of them")
            draft = self.drafts.setdefault(_key(path[:end]), _Draft(path[:end]))
        if draft.line is not None:
            raise self.error(
                line, f"{'|'.join(path)!r} is there already, on line {draft.line}; keep one of them"
            )
        draft.line = line
        return draft

    def finish(self) -> Vocabulary:
        """All tags, parents first and siblings together."""
        if not any(not draft.heading for draft in self.drafts.values()):
            raise TaggingError(f"{self.source}: no tags in it; write one on each line")
        for key, draft in self.drafts.items():
            for name in draft.synonyms:
                beside = self.drafts.get((*key[:-1], name.casefold()))
                if beside is not None and beside is not draft:
                    raise self.error(
                        beside.line or draft.line or 1,
                        f"{beside.path[-1]!r} is another name of {draft.path[-1]!r} beside it; "
                        "keep one of them",
                    )
        places = {key: number for number, key in enumerate(self.drafts)}
        order = sorted(
            self.drafts, key=lambda key: [places[key[:end]] for end in range(1, len(key) + 1)]
        )
        # a parent is written as it was first: of "Animal|dog" and "animal|cat" one is a parent
        spelled = {key: draft.path[-1] for key, draft in self.drafts.items()}
        tags = []
        for key in order:
            draft = self.drafts[key]
            path = tuple(spelled[key[:end]] for end in range(1, len(key) + 1))
            synonyms = [one for one in draft.synonyms if one.casefold() != key[-1]]
            tags.append(
                Tag(
                    path,
                    _unique(synonyms),
                    _unique(draft.descriptions),
                    _unique(draft.negatives),
                    draft.heading,
                    draft.one,
                    draft.detector,
                )
            )
        return Vocabulary(tuple(tags))

    def _name(self, line: int, name: str) -> str:
        name = " ".join(name.split())
        if not name:
            raise self.error(line, "a tag without a name; write one, or remove what is empty")
        if (
            re.search(r"[|{}\[\]]", name)
            or name[0] in "#+-@"
            or name.endswith("(one)")
            or not name.isprintable()
        ):
            raise self.error(
                line,
                f"{name!r} cannot be a name: | {{ }} [ ] may not be in it, nor # + - @ at its "
                "start, nor (one) at its end",
            )
        return name


def _unique(texts: list[str]) -> tuple[str, ...]:
    return tuple({text.casefold(): text for text in reversed(texts)}.values())[::-1]


# --- lines, from text and YAML -------------------------------------------------------------------


def _read_lines(lines: Iterable[_Line], builder: _Builder) -> None:
    above: list[tuple[int, _Draft]] = []  # the tags that the next line may stand below
    for line in lines:
        while above and above[-1][0] >= line.depth:
            above.pop()
        parent = above[-1][1] if above else None
        mark, rest = line.text[0], line.text[1:].strip()
        if mark in "+-@{":
            if parent is None:
                raise builder.error(line.number, f"{line.text!r} stands below no tag; indent it")
            _read_mark(mark, rest, parent, line, builder)
            continue
        match = re.fullmatch(r"(.*?)(\s*\(one\))?((?:\s*\{[^{}]*\})*)", line.text)
        assert match is not None  # every part may be empty
        name, one, synonyms = (
            match[1].strip(),
            bool(match[2]),
            re.findall(r"\{([^{}]*)\}", match[3]),
        )
        heading = one or (name.startswith("[") and name.endswith("]"))
        name = name[1:-1] if name.startswith("[") and name.endswith("]") else name
        names = tuple(name.split("|"))
        draft = builder.add(line.number, (*parent.path, *names) if parent else names)
        draft.heading, draft.one = heading, one
        draft.synonyms += [builder._name(line.number, one) for one in synonyms]
        above.append((line.depth, draft))


def _read_mark(mark: str, rest: str, tag: _Draft, line: _Line, builder: _Builder) -> None:
    if mark == "{":
        tag.synonyms.append(builder._name(line.number, rest.removesuffix("}")))
    elif not rest:
        raise builder.error(line.number, f"nothing behind {mark!r}; write something, or remove it")
    elif mark == "@":
        if rest not in DETECTORS:
            known = ", ".join(f"@{one}" for one in DETECTORS)
            raise builder.error(line.number, f"no detector {rest!r}; there are {known}")
        tag.detector = rest
    else:
        (tag.descriptions if mark == "+" else tag.negatives).append(" ".join(rest.split()))


def _text_lines(text: str, source: str) -> Iterator[_Line]:
    indents: list[str] = [""]
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        indent = line[: len(line) - len(line.lstrip())]
        back = len(indent) < len(indents[-1])
        while len(indent) < len(indents[-1]):
            indents.pop()
        if not indent.startswith(indents[-1]) or (back and indent != indents[-1]):
            raise TaggingError(
                f"{source} line {number}: indented like nothing above it, perhaps with tabs where "
                "that has spaces; mend it"
            )
        if len(indent) > len(indents[-1]):
            indents.append(indent)
        yield _Line(number, len(indents), content)


def _yaml_lines(text: str, source: str) -> list[_Line]:
    """The names in nested lists and mappings; JSON is YAML too."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = [] if root is None else list(_nodes(root, 0, (), source))
    except RecursionError:
        raise TaggingError(f"{source}: nested too deeply; a tree of tags is flatter") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise TaggingError(f"{source}{place}: {problem}; check the file") from None
    return lines


def _nodes(node: Any, depth: int, inside: tuple[int, ...], source: str) -> Iterator[_Line]:
    import yaml

    line = node.start_mark.line + 1
    if id(node) in inside:
        raise TaggingError(f"{source} line {line}: contains itself; remove the alias")
    inside = (*inside, id(node))
    if isinstance(node, yaml.ScalarNode):
        if node.tag.endswith(":null"):
            return
        if not node.value.strip() or "\n" in node.value.strip():
            raise TaggingError(f"{source} line {line}: a tag is one line of text; mend it")
        yield _Line(line, depth, node.value.strip())
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from _nodes(one, depth, inside, source)
    else:
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise TaggingError(f"{source} line {line}: the name of a tag is a text; mend it")
            yield from _nodes(key, depth, inside, source)
            yield from _nodes(value, depth + 1, inside, source)


# --- tables --------------------------------------------------------------------------------------


class _Row(NamedTuple):
    line: int
    path: TagPath
    values: dict[str, str]


def _read_csv(text: str, builder: _Builder) -> None:
    reader = csv.reader(io.StringIO(text), strict=True)
    rows: list[_Row] = []
    header: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = _header(cells, reader.line_num, builder)
            else:
                if any(cells[len(header) :]):
                    raise builder.error(
                        reader.line_num,
                        f"{len(cells)} cells below {len(header)} columns; put quotes around a cell "
                        "with commas",
                    )
                values = dict(zip(header, cells, strict=False))
                rows.append(_Row(reader.line_num, tuple(values["tag"].split("|")), values))
    except csv.Error as error:
        raise builder.error(reader.line_num, f"{error}; check the quotes") from None
    called: dict[str, list[_Row]] = {}
    for row in rows:
        called.setdefault(_key(row.path)[-1], []).append(row)
    for row in rows:
        draft = builder.add(row.line, (*_ancestors(row, called, builder), *row.path))
        draft.synonyms = [builder._name(row.line, one) for one in _list(row, "synonyms")]
        draft.descriptions, draft.negatives = _list(row, "descriptions"), _list(row, "negatives")
        kind = row.values.get("kind", "").lower()
        if kind.startswith("@"):
            _read_mark("@", kind[1:], draft, _Line(row.line, 0, kind), builder)
        elif kind not in ("", "tag", "heading", "one"):
            raise builder.error(row.line, f"kind {kind!r} is none of tag, heading, one, @detector")
        draft.heading, draft.one = kind in ("heading", "one"), kind == "one"


def _header(cells: list[str], line: int, builder: _Builder) -> list[str]:
    header = [cell.lower() for cell in cells]
    unknown = [cell for cell in header if cell not in COLUMNS]
    if "tag" not in header or unknown:
        what = f"no column {unknown[0]!r} is known" if unknown else "no column is called tag"
        raise builder.error(line, f"{what}; the first line may have: {', '.join(COLUMNS)}")
    return header


def _list(row: _Row, column: str) -> list[str]:
    return [" ".join(one.split()) for one in row.values.get(column, "").split(";") if one.strip()]


def _ancestors(row: _Row, called: dict[str, list[_Row]], builder: _Builder) -> TagPath:
    """The path that the column `parent` leads to, from row to row; `called` has them by name."""
    above: list[str] = []
    at, seen = row, {row.line}
    while parent := at.values.get("parent", ""):
        path = tuple(parent.split("|"))
        above[:0] = path
        found = called.get(path[0].strip().casefold(), [])
        if not found:
            break
        top = [one for one in found if len(one.path) == 1 and not one.values.get("parent")]
        if len(found) > 1 and not top:
            raise builder.error(
                row.line, f"several tags are called {path[0]!r}; write the whole path as parent"
            )
        following = (top or found)[0]
        if following.line in seen:
            raise builder.error(
                row.line, f"{row.values['tag']!r} lies below itself, by its parents"
            )
        seen.add(following.line)
        above[:1] = following.path
        at = following
    return tuple(above)
