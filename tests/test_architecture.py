"""The rooms of the house and the order in which they import (docs/architecture.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "twotower"
# From the ground up: a file imports from its own room and from the rows below it.
ORDER = (
    ("arrays", "errors", "progress", "version"),
    ("files",),
    ("inputs",),
    ("metadata", "model", "pairs"),
    ("encode",),
    ("calibration",),
    ("index",),
    ("search",),
    ("tagging",),
    ("asking",),
    ("library",),
    ("pages",),
    ("evaluate",),
    ("train", "serve"),
    ("",),  # the package itself: the public names
    ("cli",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
FACADE_FREE = {"train", "evaluate"}  # never import library.py
TORCH_ROOMS = {"model", "train"}
TORCH_FREE_FILES = {PACKAGE / "model/config.py", PACKAGE / "model/pickles.py"}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported_modules(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it, for types alone too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path.name} line {node.lineno}: write the full name"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                modules.add(submodule if submodule in MODULES else node.module)
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    return modules & MODULES.keys()


IMPORTS = {module: imported_modules(path) - {module} for module, path in MODULES.items()}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downwards(module: str) -> None:
    room = room_of(module)
    for imported in IMPORTS[module]:
        below = room_of(imported)
        assert below == room or LEVEL[below] < LEVEL[room], f"{module} imports {imported}"
        assert not (room in FACADE_FREE and below == "library"), f"{module} imports {imported}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_file_imports_itself_in_a_circle(module: str) -> None:
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        for imported in IMPORTS[waiting.pop()] - reached:
            reached.add(imported)
            waiting.append(imported)
    assert module not in reached


def test_every_room_has_a_place_in_the_order() -> None:
    assert {room_of(module) for module in MODULES} <= LEVEL.keys()


def test_nothing_imports_the_recipes() -> None:
    for path in MODULES.values():
        assert "import recipes" not in (text := path.read_text(encoding="utf-8")), path
        assert "from recipes" not in text, path


def test_torch_stays_out_of_the_light_rooms() -> None:
    light = {path for module, path in MODULES.items() if room_of(module) not in TORCH_ROOMS}
    for path in light | TORCH_FREE_FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # at the top of the file
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

    pytest.importorskip("torch")
    for name in twotower.__all__:
        assert getattr(twotower, name) is not None
    with pytest.raises(AttributeError):
        twotower.no_such_name  # noqa: B018
