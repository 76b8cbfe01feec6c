"""Named models: their facts, whether they can be read, and recommendations."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from twotower.cli.main import main
from twotower.encode.load import BUNDLED, load
from twotower.encode.registry import (
    BUNDLED_MODELS,
    FAST_GFLOPS,
    NamedModel,
    choose_models,
    named_model,
    read_registry,
    similar_name,
)
from twotower.errors import ModelError

ROOT = Path(__file__).parents[2]
REGISTRY = read_registry()
HUB_MODELS = [model for model in REGISTRY.models if model.hub]
CONFIGS = json.loads((ROOT / "tests" / "golden" / "registry.json").read_text())
FACTS = {  # group of sources -> the fields that it covers
    "licence": ("licence",),
    "cost": ("parameters", "gflops"),
    "languages": ("languages",),
    "imagenet": ("imagenet",),
    "retrieval": ("coco_text_to_image", "coco_image_to_text"),
    "pins": ("revision", "sha256"),
}


def test_names_and_repositories_are_unique() -> None:
    names = [model.name for model in REGISTRY.models]
    assert len(set(names)) == len(names) >= 30
    assert len({model.hub for model in HUB_MODELS}) == len(HUB_MODELS)
    assert {model.name for model in REGISTRY.models if not model.hub} == set(BUNDLED_MODELS)


@pytest.mark.parametrize("model", HUB_MODELS, ids=lambda model: model.name)
def test_every_fact_has_a_source(model: NamedModel) -> None:
    assert set(model.sources.values()) <= REGISTRY.sources.keys() and "hub" in model.sources
    for group, names in FACTS.items():
        stated = any(getattr(model, name) for name in names)
        assert stated == (group in model.sources), group
    for digest in (model.sha256 or {}).values():
        assert len(digest) == 64 and model.revision


@pytest.mark.parametrize("model", HUB_MODELS, ids=lambda model: model.name)
def test_sizes_are_those_of_the_configuration(model: NamedModel) -> None:
    tree = CONFIGS[model.name]
    if "model_cfg" not in tree:
        assert model.embed_dim == tree["projection_dim"]
        assert model.image_size == tree["vision_config"]["image_size"]
        return
    config = tree["model_cfg"]
    assert model.embed_dim == config["embed_dim"]
    assert model.image_size == config["vision_cfg"].get("image_size", 224)
    assert model.context_length == config["text_cfg"].get("context_length", 77)


@pytest.mark.parametrize("model", HUB_MODELS, ids=lambda model: model.name)
def test_named_models_can_be_read(model: NamedModel, tmp_path: Path) -> None:
    """The reader accepts the configuration of a named model, and only its weights are missing."""
    pytest.importorskip("torch")
    from twotower.model.foreign import read_foreign
    from twotower.model.foreign.open_clip import _vision
    from twotower.model.foreign.rename import Settings

    tree = CONFIGS[model.name]
    if "model_cfg" in tree:  # of these the weights are read first
        config = tree["model_cfg"]
        settings = Settings(dict(config["vision_cfg"]), model.name)
        assert _vision(settings, "gelu", config["embed_dim"]).image_size == model.image_size
        return
    directory = tmp_path / model.name
    directory.mkdir()
    for name, content in {"config": tree, "preprocessor_config": {}, "tokenizer": {}}.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        read_foreign(directory)
    assert caught.value.remedy == "add the weights", caught.value


def test_the_bundled_models_have_their_sizes() -> None:
    for model in REGISTRY.models:
        if not model.hub:
            encoder = load(model.name)
            folders = (encoder.directory, BUNDLED / "text")
            sizes = [(folder / "model.safetensors").stat().st_size for folder in folders]
            assert model.size == sum(sizes)
            assert model.embed_dim == encoder.config.embed_dim
            assert model.image_size == encoder.config.vision.image_size
            assert model.context_length == encoder.config.tokenizer.context_length


def test_recommendations() -> None:
    def accuracy(model: NamedModel) -> float:
        return model.imagenet or 0

    best = choose_models(best=True)
    assert best == sorted(REGISTRY.models, key=accuracy, reverse=True)
    fast = choose_models(fast=True)
    assert fast and all((model.gflops or 99) <= FAST_GFLOPS for model in fast)
    german = choose_models(languages=["de", "zh"])
    assert german and all(model.understands(["zh"]) for model in german)
    assert "clip-base" not in {model.name for model in german}
    small = choose_models(max_size=100_000_000)
    assert {model.name for model in small} >= {"twotower-base", "tinyclip-8m"}
    assert all(model.size and model.size <= 100_000_000 for model in small)
    assert choose_models() == list(REGISTRY.models)


def test_misspelt_names() -> None:
    assert similar_name("siglip2-bas") == "siglip2-base"
    assert named_model("siglip2-bas") is None and named_model("twotower-base") is None
    with pytest.raises(ModelError, match="no such model; did you mean 'metaclip-large'"):
        load("metaclip-larg")


def test_a_folder_is_preferred_to_a_name(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "siglip2-base").symlink_to(tiny_directory)
    monkeypatch.chdir(tmp_path)
    assert load("siglip2-base").config.name == "tiny"


@pytest.mark.parametrize("options", [[], ["--best"], ["--fast"], ["--languages", "de, zh"]])
def test_the_table(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path))
    assert main(["models", *options]) == 0
    output = capsys.readouterr().out
    assert ("Recommended: --model " in output) == bool(options)
    assert ("*  twotower-base" in output) == (not options or "--best" in options)
    assert main(["models", *options, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows and all(row["name"] in output for row in rows)
    assert all(address not in REGISTRY.sources for address in rows[0]["sources"].values())
    assert {row["name"] for row in rows if row["local"]} <= set(BUNDLED_MODELS)


def test_needs_that_no_model_meets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--max-size", "1KB"]) == 1
    assert "No named model" in capsys.readouterr().out
    assert main(["models", "--max-size", "1KB", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == []


def test_the_page_of_models_is_up_to_date() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert text == script("docs/models_page.py").page(), "run: python docs/models_page.py"


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
