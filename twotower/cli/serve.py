"""`twotower serve`: models and libraries over HTTP."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.cli.output import OK

if TYPE_CHECKING:
    from twotower.cli.output import Commands


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "serve",
        help="serve models and a library over HTTP, with a page to search it",
        description="Settings come from --config, then TWOTOWER_SERVE_* variables, then options.",
    )
    command.set_defaults(run=run_serve)
    add = command.add_argument
    add(
        "folder", nargs="?", metavar="FOLDER", help="a folder of pictures; without it, models alone"
    )
    add("--library", help="the folder of its index (FOLDER/.twotower)")
    add("--host", help="the address to listen on (127.0.0.1)")
    add("--port", type=int, help="the port, 0 for a free one (8000)")
    add("--api-key", help="the key that clients must send; better in TWOTOWER_SERVE_API_KEY")
    add("--no-auth", action="store_true", default=None, help="listen on other hosts without a key")
    add(
        "--model", dest="models", action="append", help="a model to serve; the first is the default"
    )
    add("--engine", help="onnxruntime, openvino or torch")
    add("--allow-host", dest="allowed_hosts", action="append", help="a further name of this server")
    add("--cors-origin", dest="cors_origins", action="append", help="an origin that may call it")
    add(
        "--allow-writes",
        action=argparse.BooleanOptionalAction,
        help="let clients index and tag (by default the page on this machine, but no assistant)",
    )
    add("--fetch-urls", action="store_true", default=None, help="fetch pictures by URL, if public")
    add("--max-batch", type=int, help="items of one pass through a tower (32)")
    add("--max-queue", type=int, help="items that may wait for a tower (1024)")
    add("--log-json", action="store_true", default=None, help="one JSON object a line on stderr")
    add("--config", type=Path, metavar="FILE", help="a TOML file of settings, see docs/server.md")


def run_serve(arguments: argparse.Namespace) -> int:
    from twotower.serve.run import listen, run
    from twotower.serve.server import Server
    from twotower.serve.settings import ServerSettings, read_settings

    names = {field.name for field in dataclasses.fields(ServerSettings)}
    command_line = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name in names
    }
    settings = read_settings(command_line, arguments.config)
    server = Server(settings)
    with listen(settings) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"Serving on http://{shown}:{port} (Ctrl-C stops)", flush=True)
        run(server, listener)
    return OK
