"""Architectures of one's own, and weights as a start for other sizes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from tests.model.test_foreign import openai_config, openai_tensors
from tests.tiny_models import random_tensors, resnet_config, siglip_config, tiny_config
from tests.train.test_batches import Numbers
from tests.train.test_resume import pretrain, small_config
from twotower.encode.convert import convert, write_directory
from twotower.encode.load import load
from twotower.errors import ModelError, TrainError, TwotowerError
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig, ResNetConfig, ViTConfig
from twotower.model.presets import preset
from twotower.pairs.shards import pack
from twotower.train.adapt import adapt_model
from twotower.train.architecture import open_architecture
from twotower.train.config import DataConfig, TrainConfig, with_settings
from twotower.train.loop import logit_scale_limits
from twotower.train.optimizer import build_optimizers, schedule
from twotower.train.recipes import pretrain as pretrain_config
from twotower.train.towers import prepare_model


def config_of(model: CLIPConfig, *settings: str) -> TrainConfig:
    return with_settings(TrainConfig(model, DataConfig(()), 100), settings)


def test_sizes_of_a_preset_are_settings() -> None:
    settings = ["vision.width=384", "vision.heads=6", "vision.layers=8", "vision.image_size=160"]
    settings += ["text.context_length=32", "embed_dim=256", "logit_bias=true"]
    model = config_of(preset("ViT-B-32"), *(f"model.{setting}" for setting in settings)).model
    assert model.vision == replace(
        preset("ViT-B-32").vision, width=384, heads=6, layers=8, image_size=160
    )
    assert model.preprocess.image_size == 160 and model.tokenizer.context_length == 32
    assert model.embed_dim == 256 and model.logit_bias
    resnet = config_of(preset("RN50"), "model.vision.layers=1,2,3,4").model
    assert isinstance(resnet.vision, ResNetConfig) and resnet.vision.layers == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.vision.widht=3", "no such setting; did you mean 'model.vision.width'"),
        ("model.vision.width=big", "'big' is not a whole number"),
        ("model.vision.width=100", "100 cannot be divided by 12 heads"),
        ("model.vision.kind=resnet", "no such setting"),
        ("model.vision.patch_size=500", "no size of a patch"),
        ("model.tokenizer.context_length=99", r"tokenizer\.context_length is 99"),
    ],
)
def test_sizes_that_are_wrong(setting: str, message: str) -> None:
    with pytest.raises(TwotowerError, match=message):
        config_of(preset("ViT-B-32"), setting)


def test_a_tower_without_a_projection_has_the_width_of_the_embeds() -> None:
    with pytest.raises(TrainError, match=r"make width and model\.embed_dim equal"):
        config_of(siglip_config(), "model.vision.width=64")


def test_files_of_architectures(tmp_path: Path) -> None:
    """Ours, and open_clip's with and without the rest of its configuration."""
    ours = tmp_path / "ours.json"
    ours.write_text(small_config().to_json())
    assert open_architecture(str(ours)) == (small_config(), None)
    tree = {
        "embed_dim": 384,
        "vision_cfg": {"image_size": 128, "layers": 6, "width": 256, "patch_size": 16},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 192, "heads": 3},
    }
    tree["text_cfg"]["layers"] = 4
    for name, content in (("plain", tree), ("whole", {"model_cfg": tree})):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        model, weights = open_architecture(str(path))
        assert weights is None and model.name == name and model.embed_dim == 384
        assert model.vision == ViTConfig(128, 16, 256, 6, 4, 1024, "gelu")
        assert (model.text.width, model.text.context_length) == (192, 32)
    path.write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        open_architecture(str(path))
    with pytest.raises(ModelError, match="did you mean 'ViT-B-32'"):
        open_architecture("ViT-B-23")


@pytest.mark.parametrize("name", ["ViT-mini-16-112", "RN-mini-64"])
def test_small_presets(name: str) -> None:
    with torch.device("meta"):
        model = CLIP(preset(name))
    count = sum(weight.numel() for weight in model.parameters())
    assert 5e6 < count < 3e7


def write_pairs(tmp_path: Path) -> str:
    pack(Numbers(12, broken=frozenset()), tmp_path / "pairs")
    return str(tmp_path / "pairs")


@pytest.mark.parametrize("form", ["twotower", "transformers", "open_clip"])
def test_any_format_is_a_start(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    config = tiny_config()
    write_directory(config, random_tensors(config), (), tmp_path / "ours")
    directory = tmp_path / "ours"
    if form != "twotower":
        directory = tmp_path / form
        convert(tmp_path / "ours", directory, form)  # type: ignore[arg-type]
    run = pretrain_config([write_pairs(tmp_path)], str(directory), batch_size=6, steps=1)
    model = prepare_model(run)
    expected = random_tensors(config)["vision.proj.weight"]
    torch.testing.assert_close(model.vision.proj.weight.detach(), expected)
    assert run.start_from


def test_an_archive_of_openai_is_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    config = openai_config()
    archive = tmp_path / "weights.pt"
    torch.save({"state_dict": openai_tensors(config, random_tensors(config))}, archive)
    options = ["--model", str(archive), "--batch-size", "6", "--steps", "1"]
    settings = ["data.workers=0", "optimizer.lr=0"]
    assert pretrain(tmp_path, "run", write_pairs(tmp_path), *options, settings=settings) == 0
    assert str(tmp_path / "run" / "model") in capsys.readouterr().out
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    expected = random_tensors(config)["text.proj.weight"].half().float()
    torch.testing.assert_close(weights["text.proj.weight"].float(), expected, rtol=1e-3, atol=1e-3)


def test_bundled_names_and_broken_files(tmp_path: Path) -> None:
    config, directory = open_architecture("small")
    assert directory is not None and config.text.kind == "sentence_encoder"
    (tmp_path / "weights.pt").write_bytes(b"no archive")
    with pytest.raises(ModelError):
        open_architecture(str(tmp_path / "weights.pt"))


def test_a_missing_vocabulary_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "SigLIP-B-16-224", "--batch-size", "6", "--steps", "1", "--dry-run"]
    assert pretrain(tmp_path, "run", write_pairs(tmp_path), *options) == 1
    assert "--set tokenizer_files=FOLDER" in capsys.readouterr().err


# --- other sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_config, siglip_config, resnet_config])
def test_positions_of_pictures_are_interpolated(make: object) -> None:
    """A picture of a plain colour has nearly the same embed at another size."""
    config = make()
    torch.manual_seed(0)
    model = CLIP(config).eval()
    larger = config_of(config, "model.vision.image_size=128").model
    adapted = adapt_model(model, larger).eval()
    embeds = [
        tower.encode_image(torch.full((1, 3, side, side), 0.5))
        for tower, side in ((model, 64), (adapted, 128))
    ]
    assert F.cosine_similarity(*embeds).item() > 0.9
    assert adapted.config.preprocess.image_size == 128


def test_a_dry_run_of_another_size(tiny_directory: Path, tmp_path: Path) -> None:
    options = ["--model", str(tiny_directory), "--batch-size", "6", "--steps", "1", "--dry-run"]
    settings = ["model.vision.image_size=96"]
    assert pretrain(tmp_path, "run", write_pairs(tmp_path), *options, settings=settings) == 0


@pytest.mark.parametrize("length", [20, 100])
def test_texts_that_fit_keep_their_embeds(length: int) -> None:
    torch.manual_seed(0)
    model = CLIP(tiny_config()).eval()
    changed = config_of(tiny_config(), f"model.text.context_length={length}").model
    adapted = adapt_model(model, changed).eval()
    input_ids = torch.randint(1, 4000, (3, 15))
    input_ids[:, -1] = 49407
    torch.testing.assert_close(adapted.encode_text(input_ids), model.encode_text(input_ids))
    assert len(adapted.text.pos_embed) == length == adapted.config.tokenizer.context_length


def test_weights_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run says so, too."""
    config = tiny_config()
    write_directory(config, random_tensors(config), (), tmp_path / "ours")
    options = ["--model", str(tmp_path / "ours"), "--batch-size", "6", "--steps", "1"]
    pairs = write_pairs(tmp_path)
    for dry in ([], ["--dry-run"]):
        settings = ["model.vision.width=96", "data.workers=0"]
        assert pretrain(tmp_path, "run", pairs, *options, *dry, settings=settings) == 1
        assert "has the shape" in capsys.readouterr().err


def test_a_model_trains_on_at_another_size(tmp_path: Path) -> None:
    """With the sigmoid loss, which its weights were not trained with."""
    config = tiny_config()
    write_directory(config, random_tensors(config), (), tmp_path / "ours")
    options = ["--model", str(tmp_path / "ours"), "--batch-size", "6", "--steps", "2"]
    settings = ["model.vision.image_size=96", "model.text.context_length=24", "data.workers=0"]
    settings += ["model.logit_bias=true", "loss.initial_scale=8", "loss.initial_bias=-5"]
    settings += ["optimizer.lr=1e-9"]
    pairs = write_pairs(tmp_path)
    assert pretrain(tmp_path, "run", pairs, *options, settings=settings) == 0
    model = load(tmp_path / "run" / "model")
    assert model.config.vision.image_size == 96 and model.config.text.context_length == 24
    assert model.logit_scale == pytest.approx(8, rel=1e-4)
    assert model.logit_bias == pytest.approx(-5, rel=1e-4)


# --- options of the optimizer and the loss -------------------------------------------------------


def test_a_rate_for_each_tower() -> None:
    config = config_of(
        tiny_config(), "optimizer.lr=1e-3", "optimizer.vision_lr=1e-5", "optimizer.text_lr=0"
    )
    model = prepare_model(config)
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {
        names[parameter].partition(".")[0]: group["initial_lr"]
        for group in build_optimizers(model, config)[0].param_groups
        for parameter in group["params"]
    }
    assert rates == {"vision": 1e-5, "text": 0.0, "logit_scale": 1e-3}


def test_schedules_that_do_not_depend_on_the_end() -> None:
    constant = config_of(tiny_config(), "optimizer.schedule=constant", "optimizer.warmup_steps=4")
    assert [schedule(step, constant) for step in (0, 3, 4, 99)] == [0.25, 1.0, 1.0, 1.0]
    rsqrt = config_of(tiny_config(), "optimizer.schedule=rsqrt", "optimizer.warmup_steps=4")
    assert [schedule(step, rsqrt) for step in (0, 3, 15, 63)] == [0.25, 1.0, 0.5, 0.25]


def test_limits_of_the_scale() -> None:
    sigmoid = ["model.logit_bias=true"]
    limits = [
        logit_scale_limits(config_of(tiny_config(), *settings))
        for settings in ([], ["loss.max_scale=50"], sigmoid, [*sigmoid, "loss.max_scale=50"])
    ]
    highs = [torch.tensor(high).exp().item() for _, high in limits]
    assert highs == pytest.approx([100, 50, float("inf"), 50])
    with pytest.raises(TrainError, match="the model has no bias"):
        prepare_model(config_of(tiny_config(), "loss.initial_bias=-10"))
