import json
from pathlib import Path

import pytest

from twotower.cli.main import main
from twotower.encode import doctor
from twotower.encode.fastest import choose_engine
from twotower.encode.load import find_model
from twotower.encode.registry import BUNDLED_MODELS
from twotower.version import __version__


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measure the small model for a moment, with an empty cache."""
    monkeypatch.setattr(doctor.examine, "__defaults__", (0.01,))
    monkeypatch.setattr(doctor, "BUNDLED_MODELS", {"twotower-small": "small"})
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))


def test_the_facts_of_an_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["twotower"] == __version__ and "onnxruntime" in facts["versions"]
    assert facts["system"]["threads"] >= 1
    assert "CPUExecutionProvider" in facts["onnxruntime_providers"]
    assert facts["cache"]["megabytes"] == facts["cache"]["conversions"] == 0
    assert facts["models"]["downloaded"] == []
    assert facts["engine_auto"] == {"twotower-small": "not measured yet"}
    speed = facts["speed"]["twotower-small"]
    assert speed["golden_cosine"] > 0.9999
    assert speed["pictures_per_second"] > 0 and speed["texts_per_second"] > 0


def test_the_measured_engine(capsys: pytest.CaptureFixture[str]) -> None:
    directory = find_model("small")
    engine = choose_engine("onnxruntime:cpu", directory, None, lambda progress: None)
    assert main(["doctor", "--json"]) == 0
    choice = json.loads(capsys.readouterr().out)["engine_auto"]["twotower-small"]
    assert choice["engine"] == engine and choice["speed"] >= 1 and choice["cosine"] > 0.99


def test_the_lines_of_the_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert f"twotower: {__version__}" in output and "CPUExecutionProvider" in output
    assert "twotower-small: golden cosine" in output
    assert "twotower-base" in BUNDLED_MODELS
