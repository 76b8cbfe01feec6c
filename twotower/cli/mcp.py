"""`twotower mcp`: a library for assistants, over stdin and stdout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.cli.index import resolve_library
from twotower.cli.output import OK

if TYPE_CHECKING:
    from twotower.cli.output import Commands


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "mcp",
        help="let an assistant search a library (Model Context Protocol)",
        description="Assistants start this command themselves; see docs/assistants.md.",
    )
    command.set_defaults(run=run_mcp)
    add = command.add_argument
    add(
        "folder",
        nargs="?",
        type=Path,
        metavar="FOLDER",
        help="a folder of pictures (that of the current library); indexed first if it is new",
    )
    add("--library", type=Path, help="the folder of its index (FOLDER/.twotower)")
    add("--model", help="the model of a library that is not indexed yet")
    add("--engine", default="onnxruntime", help="onnxruntime, openvino or torch")
    add("--allow-writes", action="store_true", help="let the assistant tag pictures")


def run_mcp(arguments: argparse.Namespace) -> int:
    import asyncio

    from twotower.serve.mcp_transport import run_stdio
    from twotower.serve.server import Server
    from twotower.serve.settings import ServerSettings

    folder, location = resolve_library(arguments.folder, arguments.library)
    settings = ServerSettings(
        folder=str(folder.absolute()) if folder else None,
        library=str(location.absolute()) if location else None,
        models=(arguments.model,) if arguments.model else (),
        engine=arguments.engine,
        allow_writes=arguments.allow_writes,
    )
    asyncio.run(run_stdio(Server(settings)))
    return OK
