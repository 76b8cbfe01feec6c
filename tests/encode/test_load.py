import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import twotower

torch = pytest.importorskip("torch")

from transformers import CLIPConfig as HubConfig
from transformers import CLIPModel, SiglipModel

from twotower.encode.load import bundled_name, find_model, load
from twotower.encode.registry import DEFAULT_MODEL
from twotower.errors import EngineError, ModelError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def foreign(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("foreign") / "clip-tiny"
    twotower.convert(tiny_directory, directory, "transformers")
    return directory


@pytest.mark.default_model
def test_a_bundled_model_is_the_default() -> None:
    model = load()
    assert model.config.name == DEFAULT_MODEL
    assert find_model(DEFAULT_MODEL) == find_model(None) == model.directory
    assert model.verify() > 0.9999


@pytest.mark.parametrize("model", ["small", "twotower-small", Path("small")])
def test_bundled_models_have_short_names(model: str | Path) -> None:
    assert load(model).config.name == "twotower-small"
    assert bundled_name(model) == "twotower-small"
    assert bundled_name("./small") is None  # a folder here


def test_a_directory_loads_by_path(tiny_directory: Path) -> None:
    assert load(tiny_directory).directory == tiny_directory
    assert load(str(tiny_directory)).encode_text("a cat").shape == (1, 32)


def test_foreign_weights_are_converted_once(
    foreign: Path, tiny_directory: Path, cache: Path
) -> None:
    encoder = load(foreign)
    made = list(cache.iterdir())
    assert len(made) == 1 and encoder.directory == made[0]
    assert load(foreign).directory == made[0]
    np.testing.assert_allclose(
        encoder.encode_text("a red car"), load(tiny_directory).encode_text("a red car"), atol=1e-5
    )


def test_a_hub_cache_is_read_offline(foreign: Path, tmp_path: Path, cache: Path) -> None:
    """`hf-hub:` finds a repository in the cache of huggingface_hub without a network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--somebody--clip-tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(foreign, repository / "snapshots" / commit)
    code = (
        "import twotower\n"
        "model = twotower.load('hf-hub:somebody/clip-tiny')\n"
        "print(model.encode_text('a cat').shape)\n"
        "try:\n"
        "    twotower.load('hf-hub:somebody/else')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=True,
    )
    shape, error = done.stdout.strip().splitlines()
    assert shape == "(1, 32)"
    assert error.startswith("hf-hub:somebody/else: ") and "check the name" in error


def test_conversion_from_and_to_transformers(foreign: Path, tiny_directory: Path) -> None:
    """transformers loads the output of `convert --to transformers`."""
    model = CLIPModel.from_pretrained(foreign).eval()
    assert isinstance(model.config, HubConfig)
    encoder = load(tiny_directory)
    tokens = encoder.tokenizer(["a photo of a dog"])
    with torch.inference_mode():
        output = model(
            input_ids=torch.from_numpy(tokens.input_ids),
            pixel_values=torch.zeros(1, 3, 64, 64),
        )
    theirs = torch.nn.functional.normalize(output.text_embeds, dim=-1).numpy()
    np.testing.assert_allclose(encoder.encode_text("a photo of a dog"), theirs, atol=1e-5)


def test_siglip_goes_to_transformers_and_back_with_its_vocabulary(
    siglip_directory: Path, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="prepares pictures and texts differently"):
        twotower.convert(siglip_directory, tmp_path / "hub", "transformers")
    twotower.convert(tmp_path / "hub", tmp_path / "again")
    for name in ("model.safetensors", "spiece.model"):
        content = (tmp_path / "again" / name).read_bytes()
        assert content == (siglip_directory / name).read_bytes()
    theirs = SiglipModel.from_pretrained(tmp_path / "hub").eval()
    encoder = load(siglip_directory)
    tokens = encoder.tokenizer(["a photo of a dog"])
    with torch.inference_mode():
        output = theirs.get_text_features(torch.from_numpy(tokens.input_ids)).pooler_output
    expected = torch.nn.functional.normalize(output, dim=-1).numpy()
    np.testing.assert_allclose(encoder.encode_text("a photo of a dog"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twotower-smal", "twotower-smal: no such model; did you mean 'twotower-small'?"),
        ("smal", "smal: no such model; did you mean 'small'?"),
        (
            "ViT-L-14-does-not-exist",
            "give 'base', 'small', a directory, an OpenAI",
        ),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_neighbour_is_suggested(tiny_directory: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'tiny'"):
        load(tiny_directory.with_name("tinny"))


def damaged(tiny_directory: Path, directory: Path, file: str, content: bytes | None) -> Path:
    shutil.copytree(tiny_directory, directory)
    if content is None:
        (directory / file).unlink()
    else:
        (directory / file).write_bytes(content)
    return directory


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b'{"embed_dim": 32'),
        ("config.json", b'{"embed_dim": 32, "name": "x"}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"PK\x03\x04 something else"),
        ("model.safetensors", None),
        ("vision.onnx", b"not a graph"),
        ("text.onnx", None),
        ("golden.safetensors", b"\0" * 100),
    ],
)
@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_damaged_directories(
    tiny_directory: Path, tmp_path: Path, file: str, content: bytes | None, engine: str
) -> None:
    directory = damaged(tiny_directory, tmp_path / "damaged", file, content)
    if engine == "torch" and file.endswith(".onnx"):
        assert load(directory, engine="torch").verify() > 0.9999  # it needs no graphs
        return
    with pytest.raises((ValueError, OSError)) as caught:
        load(directory, engine=engine).verify()
    kinds = (ModelError, EngineError)  # VerificationError is a ModelError
    assert isinstance(caught.value, kinds)
    assert str(directory) in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_weights(tiny_directory: Path, tmp_path: Path) -> None:
    content = (tiny_directory / "model.safetensors").read_bytes()
    directory = damaged(tiny_directory, tmp_path / "cut", "model.safetensors", content[:-1000])
    for engine in ("onnxruntime", "torch"):
        with pytest.raises((EngineError, ModelError), match="cut"):
            load(directory, engine=engine).verify()


def test_foreign_files(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "notes.pt").write_text("these are not weights")
    with pytest.raises(ModelError, match=r"notes\.pt"):
        load(tmp_path / "notes.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        load(tmp_path / "empty")
    assert not cache.exists() or not list(cache.iterdir())  # nothing half-made is left


def test_a_failed_conversion_is_an_error_though_another_process_converted_the_model(
    foreign: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the error that the destination exists means that the conversion can be used."""

    def convert(source: Path, destination: Path, **settings: object) -> None:
        destination.mkdir(parents=True)
        raise ModelError(subjects.pop() or destination, "a reason", "a remedy")

    monkeypatch.setattr("twotower.encode.convert.convert", convert)
    subjects = ["", str(foreign / "model.safetensors")]
    with pytest.raises(ModelError, match=r"model\.safetensors: a reason; a remedy"):
        find_model(foreign)
    shutil.rmtree(cache)
    assert find_model(foreign).parent == cache


def test_convert_refuses_to_overwrite(tiny_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="already exists"):
        twotower.convert(tiny_directory, tmp_path / "there")


def test_our_directory_round_trip_is_bit_exact(tiny_directory: Path, tmp_path: Path) -> None:
    twotower.convert(tiny_directory, tmp_path / "again")
    for name in ("model.safetensors", "config.json", "golden.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tiny_directory / name).read_bytes()
