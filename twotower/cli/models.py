"""`twotower models`: the models that have a name, and which of them to choose."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from twotower.cli.output import FAILED, OK, size_in_bytes, to_json

if TYPE_CHECKING:
    from twotower.cli.output import Commands
    from twotower.encode.registry import NamedModel

HEADER = (
    *("", "name", "ImageNet", "COCO", "GFLOP", "MB", "dim", "pixels", "tokens"),
    *("languages", "licence"),
)
LEGEND = (
    "* in the package or in the cache. ImageNet: zero-shot top-1; COCO: text to image, recall@1;\n"
    "both in percent, as published. GFLOP: for a picture. Sources: docs/models.md"
)


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("models", help="list the models that --model takes by name")
    command.set_defaults(run=run_models)
    command.add_argument("--fast", action="store_true", help="only those for a slow computer")
    command.add_argument("--best", action="store_true", help="the most accurate one first")
    command.add_argument(
        "--languages", type=_codes, default=[], metavar="CODES", help="such as de,zh"
    )
    command.add_argument(
        "--max-size", type=size_in_bytes, metavar="SIZE", help="of the weights, such as 200MB"
    )
    command.add_argument("--json", action="store_true", help="all facts, with their sources")


def run_models(arguments: argparse.Namespace) -> int:
    from twotower.encode.registry import choose_models, read_registry

    needs = {
        "fast": arguments.fast,
        "best": arguments.best,
        "languages": arguments.languages,
        "max_size": arguments.max_size,
    }
    models = choose_models(**needs)
    if arguments.json:
        sources = read_registry().sources
        print(to_json([_facts(model, sources) for model in models], indent=1))
    elif models:
        _print_table(models)
        if any(needs.values()):
            print(f"\nRecommended: --model {models[0].name}")
        print(f"\n{LEGEND}")
    if not models and not arguments.json:
        print("No named model meets these needs.")
    return OK if models else FAILED


def _codes(text: str) -> list[str]:
    """Parse "de, zh"."""
    return [code.strip().lower() for code in text.split(",") if code.strip()]


def _print_table(models: Sequence[NamedModel]) -> None:
    rows = [HEADER, *(_cells(model) for model in models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        cells = [
            cell.rjust(width) if 2 <= column <= 8 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _cells(model: NamedModel) -> tuple[str, ...]:
    def shown(fact: float | None, digits: int = 0) -> str:
        return "-" if fact is None else f"{fact:.{digits}f}"

    return (
        "*" if _is_local(model) else "",
        model.name,
        shown(model.imagenet, 1),
        shown(model.coco_text_to_image, 1),
        shown(model.gflops),
        shown(None if model.size is None else model.size / 1e6),
        shown(model.embed_dim),
        shown(model.image_size),
        shown(model.context_length),
        _shown_languages(model.languages),
        model.licence or "see its page",
    )


def _shown_languages(languages: Sequence[str]) -> str:
    if len(languages) <= 3:
        return ", ".join(languages) or "-"
    return f"{len(languages)} languages"


def _is_local(model: NamedModel) -> bool:
    from twotower.encode.download import is_downloaded

    return not model.hub or is_downloaded(model.hub, model.revision)


def _facts(model: NamedModel, sources: dict[str, str]) -> dict[str, Any]:
    """Return what is known, with the addresses of the sources."""
    facts = {key: value for key, value in asdict(model).items() if value not in (None, ())}
    facts["sources"] = {group: sources[key] for group, key in model.sources.items()}
    return facts | {"size": model.size, "local": _is_local(model)}
