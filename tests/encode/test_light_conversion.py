"""Models in other formats are converted and used without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import twotower
from tests.model.test_foreign import Archive, openai_config, openai_tensors
from tests.tiny_models import random_tensors, resnet_config
from twotower.encode.convert import write_foreign
from twotower.encode.encoder import Encoder

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "examples" / "photos" / "fig.jpg"
FORMATS = ("transformers", "siglip", "open_clip", "resnet", "openai.pt", "onnx")
WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; from twotower.cli.main import main; sys.exit(main())"
)

pytestmark = pytest.mark.filterwarnings("ignore:.*differently")


@pytest.fixture(scope="module")
def models(
    tiny_directory: Path, siglip_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a model in each of `FORMATS`."""
    folder = tmp_path_factory.mktemp("models")
    twotower.convert(tiny_directory, folder / "transformers", "transformers")
    twotower.convert(siglip_directory, folder / "siglip", "transformers")
    twotower.convert(tiny_directory, folder / "open_clip", "open_clip")
    twotower.convert(tiny_directory, folder / "onnx", "onnx")
    config = resnet_config()
    write_foreign(config, random_tensors(config), (), folder / "resnet", "open_clip")
    config = openai_config()
    archive = torch.jit.script(Archive(openai_tensors(config, random_tensors(config))))
    archive.save(folder / "openai.pt")
    return folder


def run(command: list[str], cache: Path) -> str:
    result = subprocess.run(
        command, env=os.environ | {"TWOTOWER_CACHE": str(cache)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", FORMATS)
def test_conversion_without_torch(models: Path, name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "classify", str(PICTURE), "--json"]
    output = run([*command, "--labels", "a cat, a fig", "--model", str(models / name)], tmp_path)
    labels = json.loads(output)[0]["labels"]
    assert {label["label"] for label in labels} == {"a cat", "a fig"}
    [converted] = tmp_path.iterdir()
    engine = "openvino" if name == "onnx" else "torch"  # of which no layers are known
    assert Encoder(converted, engine).verify() > 0.99999  # against onnxruntime's golden vectors


@pytest.mark.clients
@pytest.mark.timeout(1200)
def test_the_default_installation_converts_models(models: Path, tmp_path: Path) -> None:
    """Install the package alone into a new environment, load, verify and use each model."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    program = tmp_path / "venv" / "bin"
    subprocess.run([program / "pip", "install", "--quiet", "-e", ROOT], check=True)
    packages = subprocess.run([program / "pip", "list"], capture_output=True, text=True).stdout
    assert "torch" not in packages
    for name in FORMATS:
        twotower_command, cache = str(program / "twotower"), tmp_path / "cache"
        assert "golden vectors reproduced" in run(
            [twotower_command, "verify", str(models / name)], cache
        )
        classify = [twotower_command, "classify", str(PICTURE), "--labels", "a cat, a fig"]
        assert "fig.jpg" in run([*classify, "--model", str(models / name)], cache)
