"""The choice of the fastest engine: measured once, and only among engines that are right."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twotower.cli.main import build_parser, main
from twotower.encode import encoder, fastest
from twotower.encode.devices import AUTO, ENGINE_NAMES, split_engine
from twotower.encode.engine import DEVICES_OF_ENGINES, ENGINES, INSTALL, ROUNDING_ENGINES
from twotower.encode.fastest import EngineChoice, measure, read_choice
from twotower.encode.load import load
from twotower.progress import Progress, ignore_progress


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def int8_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let onnxruntime in int8 appear twice as fast as any other."""
    started: list[object] = []

    def start(name: str, *arguments: object) -> object:
        engine = ENGINES[split_engine(name)[0]](*arguments, "auto")  # type: ignore[arg-type]
        if name == fastest.INT8:
            started.append(engine)
        return engine

    monkeypatch.setattr(fastest, "start_engine", start)
    monkeypatch.setattr(
        fastest, "_relative_speed", lambda engine, rival, pixels: 2.0 if engine in started else 0.5
    )


def test_the_names_of_engines() -> None:
    assert tuple(ENGINES) == ENGINE_NAMES == tuple(INSTALL)
    assert set(ROUNDING_ENGINES) < set(ENGINE_NAMES) and set(DEVICES_OF_ENGINES) < set(ENGINE_NAMES)
    parser = build_parser()
    assert parser.parse_args(["index"]).engine == AUTO
    assert parser.parse_args(["classify", "cat.jpg", "--labels", "a"]).engine == "onnxruntime"


def test_a_measurement(fresh_directory: Path) -> None:
    stages: list[Progress] = []
    choice = measure(fresh_directory, 1, stages.append)
    assert split_engine(choice.engine)[0] in ENGINE_NAMES and choice.speed >= 1
    assert choice.cosine >= fastest.golden_cosine(choice.engine)
    assert any("onnxruntime-int8" in (stage.stage or "") for stage in stages)
    assert stages[-1].stage == f"Using {choice.engine}"


def test_the_choice_is_measured_once(
    fresh_directory: Path, cache: Path, int8_wins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(fresh_directory, engine=AUTO)
    assert model.engine == "onnxruntime"  # until it is measured
    picture = np.zeros((64, 64, 3), np.uint8)
    exact = model.encode_image(picture)
    model.choose_engine(499)
    assert model.engine == "onnxruntime"
    model.choose_engine(500)
    assert model.engine == "onnxruntime-int8"
    assert 0.99 < float((model.encode_image(picture) * exact).sum()) < 1
    monkeypatch.setattr(fastest, "measure", None)
    model.choose_engine(500)
    reloaded = load(fresh_directory, engine=AUTO)
    assert reloaded.engine == "onnxruntime-int8"
    reloaded.choose_engine(500)
    assert read_choice(fresh_directory, None) == EngineChoice(
        "onnxruntime-int8", 2.0, round(reloaded.verify(), 5)
    )
    assert read_choice(fresh_directory, 1) is None  # a machine with other threads
    assert load(fresh_directory).engine == "onnxruntime"


def test_a_fast_engine_that_is_wrong_is_not_chosen(
    fresh_directory: Path, int8_wins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest, "ROUNDED_COSINE", 1.1)
    assert measure(fresh_directory, None, ignore_progress).engine != "onnxruntime-int8"


def test_a_cache_that_cannot_be_written(
    fresh_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "file"))
    model = load(fresh_directory, engine=AUTO)
    model.choose_engine(500)
    assert model.engine == "onnxruntime"


def test_a_damaged_choice_is_measured_again(
    fresh_directory: Path, cache: Path, int8_wins: None
) -> None:
    load(fresh_directory, engine=AUTO).choose_engine(500)
    [path] = (cache / "engines").glob("*.json")
    path.write_text("{")
    model = load(fresh_directory, engine=AUTO)
    assert model.engine == "onnxruntime"
    model.choose_engine(500)
    assert model.engine == "onnxruntime-int8"


def test_a_device_takes_onnxruntime(fresh_directory: Path) -> None:
    assert load(fresh_directory, engine="auto:cpu").engine == "onnxruntime:cpu"
    assert load(fresh_directory, engine="auto:cuda").engine == "onnxruntime:cuda"


def test_indexing_many_pictures_measures_first(
    fresh_directory: Path, tmp_path: Path, int8_wins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "MEASURED_FROM", 3)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (80 * number, 0, 0)).save(folder / f"{number}.png")
    command = ["index", str(folder), "--model", str(fresh_directory)]
    assert main([*command, "--engine", "onnxruntime"]) == 0
    assert read_choice(fresh_directory, None) is None
    (folder / "0.png").unlink()
    Image.new("RGB", (30, 20)).save(folder / "new.png")
    assert main(command) == 0  # one new picture
    assert read_choice(fresh_directory, None) is None
    for number in range(3):
        Image.new("RGB", (20, 30), (0, 80 * number, 0)).save(folder / f"tall{number}.png")
    assert main(command) == 0
    choice = read_choice(fresh_directory, None)
    assert choice is not None and choice.engine == "onnxruntime-int8"
