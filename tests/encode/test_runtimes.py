"""Nothing is reported to the makers of the runtimes."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "twotower"
# Both runtimes are silent in CI by themselves; so the variables that say so are not handed on.
KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
ENCODE = "import twotower; twotower.load('small', engine={engine!r}).encode_text('a cat')"


def run(code: str, home: Path, *prefix: str) -> None:
    """Run code in a process of its own, with an empty home folder."""
    home.mkdir()
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home)}
    subprocess.run([*prefix, sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_no_file_appears_in_the_home_folder(engine: str, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    run(ENCODE.format(engine=engine), tmp_path / "home")
    assert list((tmp_path / "home").iterdir()) == []


def test_the_graphs_of_others_are_run_without_telemetry(tmp_path: Path) -> None:
    graph = PACKAGE / "bundled" / "small" / "vision.onnx"
    shape = "pixel_values [n, 3, height, width]"
    code = (
        "from pathlib import Path; from twotower.encode.onnx_pair import _input_shape; "
        f"_input_shape(Path({str(graph)!r}), {shape!r})"
    )
    run(code, tmp_path / "home")
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.slow  # onnxruntime's first report comes after nine seconds
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_no_socket_is_opened(engine: str, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "log"
    code = ENCODE.format(engine=engine) + "; import time; time.sleep(12)"
    run(code, tmp_path / "home", strace, "-f", "-e", "trace=socket,connect,sendto", "-o", str(log))
    assert "socket(" not in log.read_text()


def test_runtimes_are_imported_in_one_file() -> None:
    importing = {
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (getattr(node, "module", None), *(alias.name for alias in node.names))
        if name and name.split(".")[0] in ("onnxruntime", "openvino")
    }
    assert importing == set()  # runtimes.py imports them by name
