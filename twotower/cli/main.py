"""The command `twotower`: its parser, and the exit codes of errors and of Ctrl-C."""

from __future__ import annotations

import argparse
import codecs
import io
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from twotower.cli import (
    ask,
    calibrate,
    classify,
    doctor,
    embed,
    evaluate,
    explain,
    index,
    mcp,
    models,
    pairs,
    search,
    serve,
    tag,
    train,
    weights,
)
from twotower.cli.output import FAILED, INTERRUPTED, OK, printable
from twotower.encode.devices import AUTO
from twotower.errors import TwotowerError
from twotower.version import __version__

# The extras of packages that whole commands need; the other extras are named where they are used.
EXTRAS = {
    "torch": "train",
    "onnx": "train",
    "onnxscript": "train",
    "matplotlib": "train",
    "scipy": "evaluate",
    "threadpoolctl": "evaluate",
    "starlette": "serve",
    "uvicorn": "serve",
    "pydantic": "serve",
    "prometheus_client": "serve",
    "mcp": "serve",
    "selectolax": "web",
    "fastwarc": "web",
    "aiohttp": "web",
    "protego": "web",
    "pyarrow": "web",
    "py3langid": "web",
}
_ESCAPE = "twotower-escape"  # an error handler for streams


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and print its errors.

    Errors that are not the user's, such as a plain `ValueError`, keep their traceback.

    Returns:
        0; 1 if something could not be done; 130 after Ctrl-C.

    Raises:
        SystemExit: with 2, for wrong usage; with 0, after --help and --version.
    """
    codecs.register_error(_ESCAPE, _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPE)
    arguments = build_parser().parse_args(search.keep_minus(sys.argv[1:] if argv is None else argv))
    if getattr(arguments, "device", AUTO) != AUTO:
        arguments.engine += f":{arguments.device}"
    warnings.showwarning = _print_warning  # type: ignore[assignment]
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        sys.stdout = None  # so that nothing is flushed to it at exit
        return OK
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        install = f"pip install 'twotower[{EXTRAS[package]}]'"
        print(f"twotower: this command needs the package {package!r}; {install}", file=sys.stderr)
        return FAILED
    except (TwotowerError, OSError) as error:
        print(f"twotower: {_one_line(error)}", file=sys.stderr)
        return FAILED


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="twotower", description="Pictures and words in one space: CLIP, offline and light."
    )
    parser.add_argument("--version", action="version", version=f"twotower {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for family in (
        classify,
        ask,
        index,
        search,
        tag,
        embed,
        explain,
        weights,
        models,
        serve,
        mcp,
        doctor,
        calibrate,
        evaluate,
        pairs,
        train,
    ):
        family.add_commands(commands)
    return parser


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Print file names as their bytes, and as an escape what the stream's encoding lacks."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return printable(f"{error.filename}: {error.strerror}")
    return printable(" ".join(str(error).split()))


def _print_warning(message: Warning | str, *_: Any) -> None:
    print(f"twotower: {printable(str(message))}", file=sys.stderr)
