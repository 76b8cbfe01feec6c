"""Devices of onnxruntime, with stand-ins for providers that this machine does not have."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from twotower.cli.main import main
from twotower.encode.devices import DEVICES, PROVIDERS, choose_device, split_engine
from twotower.encode.engine import accelerator, start_engine
from twotower.encode.load import load
from twotower.errors import EngineError

ALL = [*PROVIDERS.values(), "CPUExecutionProvider"]


class StandIn:
    """A session of an accelerator, computed by the CPU; it fails as the test wants.

    Attributes:
        fault: "start" (an exception), "absent" (onnxruntime leaves the provider out), "run" (an
            exception at the first batch), "numbers" (wrong features) or "" (none).
        started: the providers of each session.
    """

    fault = ""
    started: list[list[str]] = []  # noqa: RUF012
    session = onnxruntime.InferenceSession

    def __init__(self, path: Path, options: Any, providers: list[str]) -> None:
        StandIn.started.append(providers)
        self.accelerated = providers[0] != "CPUExecutionProvider"
        if self.accelerated and self.fault == "start":
            raise RuntimeError("no driver\nand more lines")
        self.providers = providers[1:] if self.fault == "absent" else providers
        self.real = StandIn.session(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return self.providers

    def get_inputs(self) -> Any:
        return self.real.get_inputs()

    def run(self, names: Any, inputs: Any) -> Any:
        if self.accelerated and self.fault == "run":
            raise RuntimeError("out of memory")
        outputs = self.real.run(names, inputs)
        if self.accelerated and self.fault == "numbers":
            outputs[0] = outputs[0][:, ::-1]
        return outputs


@pytest.fixture
def accelerators(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(onnxruntime, "InferenceSession", StandIn)
    monkeypatch.setattr(StandIn, "started", [])
    return StandIn


def test_names_of_engines() -> None:
    assert split_engine("onnxruntime") == ("onnxruntime", "auto")
    assert split_engine("onnxruntime:dml") == ("onnxruntime", "dml")
    with pytest.raises(EngineError, match="gpu: no such device; choose one of auto, cpu, cuda"):
        split_engine("onnxruntime:gpu")


def test_the_choice_of_a_device() -> None:
    cpu = ["CPUExecutionProvider"]
    assert choose_device("auto", cpu) == choose_device("cpu", ALL) == "cpu"
    assert choose_device("auto", ALL) == "cuda"
    for device in PROVIDERS:
        assert choose_device(device, ALL) == device
        with pytest.raises(EngineError, match=f"--device {device}: this onnxruntime has no"):
            choose_device(device, cpu)
    assert {"coreml", "dml", "tensorrt", "openvino"} < set(DEVICES)


@pytest.mark.parametrize("device", PROVIDERS)
def test_an_accelerator_that_works(
    device: str, accelerators: type[StandIn], tiny_directory: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load(tiny_directory, engine=f"onnxruntime:{device}")
        assert model.verify() > 0.9999
    assert model.engine == f"onnxruntime:{device}"
    assert accelerators.started == 2 * [[PROVIDERS[device], "CPUExecutionProvider"]]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("start", "no driver"),
        ("absent", "did not start"),
        ("run", "out of memory"),
        ("numbers", "golden picture 0 has cosine"),
    ],
)
def test_an_accelerator_that_fails_is_replaced_by_the_cpu(
    fault: str,
    reason: str,
    accelerators: type[StandIn],
    tiny_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accelerators, "fault", fault)
    model = load(tiny_directory, engine="onnxruntime:coreml")
    with pytest.warns(UserWarning) as caught:
        embeds = model.encode_image(np.zeros((9, 9, 3), np.uint8))
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith("--device coreml failed (") and reason in message
    assert message.endswith("; the CPU is used") and "\n" not in message
    monkeypatch.setattr(onnxruntime, "InferenceSession", StandIn.session)
    expected = load(tiny_directory, engine="onnxruntime:cpu")
    np.testing.assert_array_equal(embeds, expected.encode_image(np.zeros((9, 9, 3), np.uint8)))


def test_other_engines_have_their_devices(tiny_directory: Path) -> None:
    assert start_engine("openvino:cpu", tiny_directory, "vision")
    with pytest.raises(EngineError, match="--engine openvino: does not have the device dml"):
        start_engine("openvino:dml", tiny_directory, "vision")
    assert accelerator("torch:cuda") is None and accelerator("onnxruntime:cpu") is None


def test_auto_takes_an_accelerator(accelerators: type[StandIn]) -> None:
    assert accelerator("auto") == accelerator("onnxruntime") == "cuda"
    assert accelerator("auto:cpu") is None


def test_the_command(tiny_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny_directory), "--device", "cpu"]) == 0
    assert "with onnxruntime:cpu" in capsys.readouterr().out
    assert main(["verify", str(tiny_directory), "--device", "tensorrt"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("twotower: --device tensorrt: ") and error.count("\n") == 1
    assert main(["verify", str(tiny_directory), "--engine", "openvino", "--device", "cpu"]) == 0
