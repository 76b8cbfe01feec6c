"""`twotower doctor`: facts about this installation, and a measurement of its speed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from twotower.cli.output import OK, to_json

if TYPE_CHECKING:
    from twotower.cli.output import Commands


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "doctor", help="show versions, hardware, cache and models, and measure for 10 seconds"
    )
    command.set_defaults(run=run_doctor)
    command.add_argument("--json", action="store_true")


def run_doctor(arguments: argparse.Namespace) -> int:
    from twotower.encode.doctor import examine

    facts = examine()
    if arguments.json:
        print(to_json(facts, indent=1))
        return OK
    for section, content in facts.items():
        print(f"{section.replace('_', ' ')}: {_line(content)}")
    return OK


def _line(content: Any) -> str:
    """Return a section on one line, or a line for each of its parts."""
    if isinstance(content, list):
        return ", ".join(map(str, content)) or "none"
    if isinstance(content, dict):
        rows = [f"\n  {key.replace('_', ' ')}: {_flat(value)}" for key, value in content.items()]
        return "".join(rows)
    return str(content)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {item}" for key, item in value.items())
    return _line(value)
