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
from twotower.tagging.vocabulary import (
    DETECTORS,
    SHIPPED_FILE,
    Tag,
    TagPath,
    Vocabulary,
    casefold_path,
)

CSV_COLUMNS = ("tag", "parent", "synonyms", "descriptions", "negatives", "kind")


class _Line(NamedTuple):
    """A line of a vocabulary: its number, its depth in the tree (0 at the top), and its text."""

    number: int
    depth: int
    text: str


@dataclass
class _Draft:
    """A tag while its file is read; `line` is None if only longer paths have named it."""

    path: TagPath
    line: int | None = None
    synonyms: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    negatives: list[str] = field(default_factory=list)
    heading: bool = False
    exclusive: bool = False
    detector: str | None = None

    def finish(self, path: TagPath) -> Tag:
        """Return the tag with `path`, without repeated texts."""
        synonyms = [name for name in self.synonyms if name.casefold() != path[-1].casefold()]
        return Tag(
            path,
            _unique(synonyms),
            _unique(self.descriptions),
            _unique(self.negatives),
            self.heading,
            self.exclusive,
            self.detector,
        )


def read_vocabulary(path: str | Path | None = None) -> Vocabulary:
    """Read a `.txt`, `.csv`, `.yaml` or `.json` vocabulary; by default the shipped one.

    Raises:
        TaggingError: the file does not exist or is not a vocabulary; the subject names the file
            and the line.
        OSError: the file cannot be read.
    """
    path = Path(path) if path is not None else SHIPPED_FILE
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TaggingError(path, "no such file", "check the path") from None
    except UnicodeDecodeError:
        raise TaggingError(path, "not UTF-8 text", "save it as UTF-8") from None
    return parse_vocabulary(text, path.suffix.lower().lstrip(".") or "txt", str(path))


def parse_vocabulary(text: str, kind: str = "txt", source: str = "vocabulary") -> Vocabulary:
    """Parse the text of a vocabulary.

    Args:
        kind: the suffix of its file, without the dot.
        source: the name of the file in errors.

    Raises:
        TaggingError: the text is not a vocabulary.
    """
    builder = _Builder(source)
    if kind == "csv":
        _read_csv(text, builder)
    elif kind in ("yaml", "yml", "json"):
        _read_lines(_yaml_lines(text, source), builder)
    elif kind in ("txt", "text"):
        _read_lines(_text_lines(text, source), builder)
    else:
        raise TaggingError(
            source, "not a vocabulary by its suffix", "use .txt, .csv, .yaml or .json"
        )
    return builder.finish()


def format_vocabulary(vocabulary: Vocabulary) -> str:
    """Return the text form; `parse_vocabulary` reads it back unchanged."""
    lines = []
    for tag in vocabulary.tags:
        indent = "\t" * (len(tag.path) - 1)
        name = (
            f"{tag.name} (one)" if tag.exclusive else f"[{tag.name}]" if tag.heading else tag.name
        )
        lines.append(indent + " ".join([name, *(f"{{{synonym}}}" for synonym in tag.synonyms)]))
        lines += [f"{indent}\t+ {sentence}" for sentence in tag.descriptions]
        lines += [f"{indent}\t- {sentence}" for sentence in tag.negatives]
        lines += [f"{indent}\t@{tag.detector}"] if tag.detector else []
    return "\n".join(lines) + "\n"


class _Builder:
    """Collects the tags of a file and checks them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.drafts: dict[TagPath, _Draft] = {}

    def error(self, line: int, reason: str, remedy: str) -> TaggingError:
        return TaggingError(f"{self.source} line {line}", reason, remedy)

    def add(self, line: int, path: TagPath) -> _Draft:
        """Start the draft of the tag on a line, and drafts of its ancestors where they lack."""
        path = tuple(self.clean_name(line, name) for name in path)
        for end in range(1, len(path) + 1):
            name = path[end - 1].casefold()
            if name in casefold_path(path[: end - 1]):
                raise self.error(
                    line, f"{path[end - 1]!r} lies below itself", "rename one of the two"
                )
            draft = self.drafts.setdefault(casefold_path(path[:end]), _Draft(path[:end]))
        if draft.line is not None:
            raise self.error(
                line,
                f"{'|'.join(path)!r} is defined already, on line {draft.line}",
                "keep one of the two",
            )
        draft.line = line
        return draft

    def clean_name(self, line: int, name: str) -> str:
        """Return `name` with single spaces. Raises `TaggingError` if no tag may be named so."""
        name = " ".join(name.split())
        if not name:
            raise self.error(line, "a tag has no name", "write one, or remove what is empty")
        if (
            re.search(r"[|{}\[\]]", name)
            or name[0] in "#+-@"
            or name.endswith("(one)")
            or not name.isprintable()
        ):
            raise self.error(
                line,
                f"{name!r} cannot be the name of a tag",
                "leave out | { } [ ], # + - @ at its start, and (one) at its end",
            )
        return name

    def finish(self) -> Vocabulary:
        """Return all tags, parents before children and siblings together."""
        if all(draft.heading for draft in self.drafts.values()):
            raise TaggingError(self.source, "contains no tags", "write one on each line")
        self._check_synonyms()
        numbers = {key: number for number, key in enumerate(self.drafts)}
        order = sorted(
            self.drafts, key=lambda key: [numbers[key[:end]] for end in range(1, len(key) + 1)]
        )
        # An ancestor is spelled as in its first occurrence: "Animal|dog" and "animal|cat".
        spelling = {key: draft.path[-1] for key, draft in self.drafts.items()}
        return Vocabulary(
            tuple(
                self.drafts[key].finish(
                    tuple(spelling[key[:end]] for end in range(1, len(key) + 1))
                )
                for key in order
            )
        )

    def _check_synonyms(self) -> None:
        """Raise `TaggingError` if a tag has the same name as a synonym of its sibling."""
        for key, draft in self.drafts.items():
            for name in draft.synonyms:
                sibling = self.drafts.get((*key[:-1], name.casefold()))
                if sibling is not None and sibling is not draft:
                    raise self.error(
                        sibling.line or draft.line or 1,
                        f"{sibling.path[-1]!r} is also a synonym of {draft.path[-1]!r} beside it",
                        "keep one of the two",
                    )


def _unique(texts: list[str]) -> tuple[str, ...]:
    """Return the texts that differ in more than case."""
    return tuple({text.casefold(): text for text in reversed(texts)}.values())[::-1]


# --- lines, from text and YAML -------------------------------------------------------------------


def _read_lines(lines: Iterable[_Line], builder: _Builder) -> None:
    ancestors: list[tuple[int, _Draft]] = []  # depths and tags that the next line can belong to
    for line in lines:
        while ancestors and ancestors[-1][0] >= line.depth:
            ancestors.pop()
        parent = ancestors[-1][1] if ancestors else None
        if line.text[0] in "+-@{":
            if parent is None:
                raise builder.error(
                    line.number, f"{line.text!r} belongs to no tag", "indent it under one"
                )
            _read_property(line.text[0], line.text[1:].strip(), parent, line.number, builder)
        else:
            ancestors.append((line.depth, _read_tag(line, parent, builder)))


def _read_tag(line: _Line, parent: _Draft | None, builder: _Builder) -> _Draft:
    """Read a line with a name, such as `dog {hound}`, `[animals]` or `season (one)`."""
    match = re.fullmatch(r"(.*?)(\s*\(one\))?((?:\s*\{[^{}]*\})*)", line.text)
    assert match is not None  # every group may be empty
    name, exclusive = match[1].strip(), bool(match[2])
    bracketed = name.startswith("[") and name.endswith("]")
    names = tuple((name[1:-1] if bracketed else name).split("|"))
    draft = builder.add(line.number, (*parent.path, *names) if parent else names)
    draft.heading, draft.exclusive = exclusive or bracketed, exclusive
    synonyms = re.findall(r"\{([^{}]*)\}", match[3])
    draft.synonyms += [builder.clean_name(line.number, synonym) for synonym in synonyms]
    return draft


def _read_property(mark: str, content: str, tag: _Draft, line: int, builder: _Builder) -> None:
    """Read a synonym ({), description (+), negative (-) or detector (@) of a tag."""
    if mark == "{":
        tag.synonyms.append(builder.clean_name(line, content.removesuffix("}")))
    elif not content:
        raise builder.error(line, f"nothing follows {mark!r}", "write something, or remove it")
    elif mark == "@":
        if content not in DETECTORS:
            names = ", ".join(f"@{name}" for name in DETECTORS)
            raise builder.error(line, f"no detector {content!r}", f"use one of {names}")
        tag.detector = content
    else:
        (tag.descriptions if mark == "+" else tag.negatives).append(" ".join(content.split()))


def _text_lines(text: str, source: str) -> Iterator[_Line]:
    indents: list[str] = [""]
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        indent = line[: len(line) - len(line.lstrip())]
        dedented = len(indent) < len(indents[-1])
        while len(indent) < len(indents[-1]):
            indents.pop()
        if not indent.startswith(indents[-1]) or (dedented and indent != indents[-1]):
            raise TaggingError(
                f"{source} line {number}",
                "the indentation matches no line above",
                "indent all lines with tabs, or all with spaces",
            )
        if len(indent) > len(indents[-1]):
            indents.append(indent)
        yield _Line(number, len(indents), content)


def _yaml_lines(text: str, source: str) -> list[_Line]:
    """Return the names in nested lists and mappings; JSON is YAML too."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        return [] if root is None else list(_node_lines(root, 0, (), source))
    except RecursionError:
        raise TaggingError(source, "nested too deeply", "write a flatter tree") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        subject = f"{source} line {mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or "not YAML"
        raise TaggingError(subject, problem, "check the file") from None


def _node_lines(node: Any, depth: int, parents: tuple[int, ...], source: str) -> Iterator[_Line]:
    """Yield the lines of a YAML node; `parents` are the ids of the nodes that contain it."""
    import yaml

    line = node.start_mark.line + 1
    if id(node) in parents:
        raise TaggingError(f"{source} line {line}", "contains itself", "remove the alias")
    parents = (*parents, id(node))
    if isinstance(node, yaml.ScalarNode):
        if node.tag.endswith(":null"):
            return
        if not node.value.strip() or "\n" in node.value.strip():
            raise TaggingError(
                f"{source} line {line}", "a tag is not one line of text", "write it on one line"
            )
        yield _Line(line, depth, node.value.strip())
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _node_lines(item, depth, parents, source)
    else:
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise TaggingError(
                    f"{source} line {line}", "the name of a tag is not text", "write it as text"
                )
            yield from _node_lines(key, depth, parents, source)
            yield from _node_lines(value, depth + 1, parents, source)


# --- tables --------------------------------------------------------------------------------------


class _Row(NamedTuple):
    line: int
    path: TagPath
    values: dict[str, str]


def _read_csv(text: str, builder: _Builder) -> None:
    rows = _read_rows(text, builder)
    rows_by_name: dict[str, list[_Row]] = {}
    for row in rows:
        rows_by_name.setdefault(casefold_path(row.path)[-1], []).append(row)
    for row in rows:
        draft = builder.add(row.line, (*_ancestors(row, rows_by_name, builder), *row.path))
        draft.synonyms = [
            builder.clean_name(row.line, synonym) for synonym in _split_cell(row, "synonyms")
        ]
        draft.descriptions = _split_cell(row, "descriptions")
        draft.negatives = _split_cell(row, "negatives")
        kind = row.values.get("kind", "").lower()
        if kind.startswith("@"):
            _read_property("@", kind[1:], draft, row.line, builder)
        elif kind not in ("", "tag", "heading", "one"):
            raise builder.error(
                row.line, f"unknown kind {kind!r}", "use tag, heading, one or @detector"
            )
        draft.heading, draft.exclusive = kind in ("heading", "one"), kind == "one"


def _read_rows(text: str, builder: _Builder) -> list[_Row]:
    reader = csv.reader(io.StringIO(text), strict=True)
    rows: list[_Row] = []
    header: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = _read_header(cells, reader.line_num, builder)
                continue
            if any(cells[len(header) :]):
                raise builder.error(
                    reader.line_num,
                    f"{len(cells)} cells below {len(header)} columns",
                    "put quotes around a cell with commas",
                )
            values = dict(zip(header, cells, strict=False))
            rows.append(_Row(reader.line_num, tuple(values["tag"].split("|")), values))
    except csv.Error as error:
        raise builder.error(reader.line_num, str(error), "check the quotes") from None
    return rows


def _read_header(cells: list[str], line: int, builder: _Builder) -> list[str]:
    header = [cell.lower() for cell in cells]
    unknown = [cell for cell in header if cell not in CSV_COLUMNS]
    if "tag" not in header or unknown:
        reason = f"unknown column {unknown[0]!r}" if unknown else "no column 'tag'"
        raise builder.error(line, reason, f"the first line may have: {', '.join(CSV_COLUMNS)}")
    return header


def _split_cell(row: _Row, column: str) -> list[str]:
    texts = row.values.get(column, "").split(";")
    return [" ".join(text.split()) for text in texts if text.strip()]


def _ancestors(row: _Row, rows_by_name: dict[str, list[_Row]], builder: _Builder) -> TagPath:
    """Return the path that the column `parent` leads to, from row to row."""
    path: list[str] = []
    current, visited = row, {row.line}
    while parent := current.values.get("parent", ""):
        names = tuple(parent.split("|"))
        path[:0] = names
        candidates = rows_by_name.get(names[0].strip().casefold(), [])
        if not candidates:
            break
        roots = [
            candidate
            for candidate in candidates
            if len(candidate.path) == 1 and not candidate.values.get("parent")
        ]
        if len(candidates) > 1 and not roots:
            raise builder.error(
                row.line,
                f"several tags are called {names[0]!r}",
                "write the whole path as parent",
            )
        current = (roots or candidates)[0]
        if current.line in visited:
            raise builder.error(
                row.line,
                f"{row.values['tag']!r} lies below itself, by its parents",
                "change one of the parents",
            )
        visited.add(current.line)
        path[:1] = current.path
    return tuple(path)
