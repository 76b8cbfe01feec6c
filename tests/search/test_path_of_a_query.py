"""The files that run for one `twotower search`, from the query as typed to the result to print."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import pytest

import twotower
from twotower.cli import search as command
from twotower.cli.main import main
from twotower.encode.encoder import Encoder
from twotower.index.index import Index
from twotower.index.local_vectors import LocalVectors
from twotower.library import Library
from twotower.search import query, ranking, search

PACKAGE = Path(twotower.__file__).parent
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
MAX_FILES = 15  # for a query of words; a filter adds `filters.py`

# Opens the library and starts the model, once in a process; not a part of each query.
OPENING = {
    command.locate_library.__code__,
    command.index_if_new.__code__,
    *(
        opened.func.__code__
        for opened in (Index.root, Index.catalog, Index.vectors, Index.encoder, Index.calibration)
    ),
    *(opened.func.__code__ for opened in (Encoder.tokenizer, Encoder._text)),
}
STAGES: list[Callable[..., object]] = [
    command.run_search,
    Library.search,
    search.search,
    Encoder.encode_text,
    LocalVectors.search,
]
CALLED_ONCE = [*STAGES, query.parse_query, ranking.judge, ranking.rank, ranking.group_copies]


class Trace:
    """Calls of the package's code from the command's function to the printing of its result.

    Attributes:
        calls: in order, without those of module and class bodies, and those while opening.
    """

    def __init__(self) -> None:
        self.calls: list[CodeType] = []
        self._running = False
        self._opening: FrameType | None = None

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "return" and frame is self._opening:
            self._opening = None
        if event != "call" or self._opening:
            return
        if code is command.run_search.__code__:
            self._running = True
        elif code is command.output_result.__code__:
            self._running = False
        if self._running and code in OPENING:
            self._opening = frame
        elif self._running and Path(code.co_filename).is_relative_to(PACKAGE) and has_body(code):
            self.calls.append(code)

    def files(self) -> dict[str, list[str]]:
        """Return the files that ran, each with its functions."""
        files: dict[str, dict[str, None]] = {}
        for code in self.calls:
            name = Path(code.co_filename).relative_to(PACKAGE).as_posix()
            files.setdefault(name, {})[code.co_qualname] = None
        return {name: list(functions) for name, functions in files.items()}


def has_body(code: CodeType) -> bool:
    """Return False for the code of a module or of a class body, which runs on import."""
    return code.co_name != "<module>" and "__module__" not in code.co_names


def trace_search(text: str, folder: Path) -> Trace:
    trace = Trace()
    sys.setprofile(trace)
    try:
        assert main(["search", text, str(folder)]) == 0
    finally:
        sys.setprofile(None)
    return trace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, indexed and searched once, so that all imports are done."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("cat.jpg", "dog.jpg", "skyline.jpg"):
        shutil.copy(PHOTOS / name, folder)
    assert main(["search", "a cat type:jpeg", str(folder)]) == 0
    return folder


def test_a_query_runs_code_in_few_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = trace_search("a cat", folder).files()
    assert "cat.jpg" in capsys.readouterr().out
    listing = "\n".join(f"{name}: {', '.join(functions)}" for name, functions in files.items())
    assert len(files) <= MAX_FILES, f"{len(files)} files:\n{listing}"


def test_a_filter_adds_a_single_file(folder: Path) -> None:
    plain, filtered = trace_search("a cat", folder), trace_search("a cat type:jpeg", folder)
    assert filtered.files().keys() - plain.files().keys() == {"search/filters.py"}


def test_each_stage_runs_once_and_in_order(folder: Path) -> None:
    trace = trace_search('"a cat" type:jpeg', folder)
    counts = Counter(trace.calls)
    assert {stage.__qualname__: counts[stage.__code__] for stage in CALLED_ONCE} == {
        stage.__qualname__: 1 for stage in CALLED_ONCE
    }
    order = [trace.calls.index(stage.__code__) for stage in STAGES]
    assert order == sorted(order)
