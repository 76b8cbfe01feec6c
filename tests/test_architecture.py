"""The rooms of the house and which may import which (docs/architecture.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "twotower"
ROOMS = {
    "inputs": set(),
    "model": {"inputs"},
    "pairs": {"inputs"},
    "encode": {"inputs", "model"},
    "evaluate": {"inputs", "model", "pairs", "encode"},
    "train": {"inputs", "model", "pairs", "encode", "evaluate"},
    "library": {"inputs", "encode"},
    "asking": {"inputs", "model", "encode", "library"},
    "cli": {"inputs", "model", "pairs", "encode", "evaluate", "train", "library", "asking"},
}
TORCH_FREE = {"inputs", "pairs", "encode", "evaluate", "library", "asking", "cli"}
TORCH_FREE_FILES = {PACKAGE / "model/config.py", PACKAGE / "model/pickles.py"}


def imported_rooms(path: Path) -> set[str]:
    """Rooms of ours that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} line {node.lineno}: write the full name"
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("twotower.")}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_the_table_allows(room: str) -> None:
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        assert imported_rooms(path) <= ROOMS[room] | {room}, path


def test_every_folder_with_code_is_in_the_table() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders == set(ROOMS)


def test_torch_stays_out_of_the_light_rooms() -> None:
    files = {path for room in TORCH_FREE for path in (PACKAGE / room).rglob("*.py")}
    for path in files | TORCH_FREE_FILES:
        for node in ast.parse(path.read_text()).body:  # imports at the top of the file only
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None) or node.names[0].name
                assert module.split(".")[0] not in ("torch", "onnx", "openvino"), path


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, twotower\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_using_a_model_does_not_import_torch() -> None:
    code = (
        "import sys, twotower\n"
        "assert twotower.load().encode_text('a cat').shape == (1, 512)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist() -> None:
    import twotower

    for name in twotower.__all__:
        assert getattr(twotower, name) is not None
    with pytest.raises(AttributeError):
        twotower.no_such_name  # noqa: B018
