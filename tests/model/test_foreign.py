"""Import and export of weights: exact round trips, and errors that name what does not fit."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPConfig as HubConfig
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipImageProcessorPil,
    SiglipModel,
)

from tests.tiny_models import random_tensors, resnet_config, siglip_config, tiny_config
from twotower.errors import ModelError, UnsafePickleError
from twotower.inputs.preprocess import Preprocess
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig, TextTransformerConfig, ViTConfig
from twotower.model.foreign import read_foreign, write_open_clip, write_transformers
from twotower.model.foreign.open_clip import _vision, open_clip_config
from twotower.model.foreign.openai import OPENAI_TABLE
from twotower.model.foreign.rename import Settings, export_tensors
from twotower.model.foreign.transformers import _preprocess, _tower
from twotower.model.foreign.transformers import _text as _text_tower
from twotower.model.foreign.transformers import _vision as _vision_tower
from twotower.model.presets import preset
from twotower.model.weight_files import Tensors
from twotower.model.weights import as_tensors, build_model

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def assert_same(ours: Tensors, theirs: Tensors) -> None:
    """Check that names, values and precisions are equal."""
    ours, theirs = as_tensors(ours), as_tensors(theirs)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


def without_counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}


def openai_config() -> CLIPConfig:
    """Return a configuration with heads 64 wide, as OpenAI's have."""
    return replace(
        tiny_config("tiny-openai"),
        vision=ViTConfig(64, 16, 64, 2, 1, 256, "quick_gelu"),
        text=TextTransformerConfig(77, 49408, 64, 2, 1, 256, "quick_gelu"),
    )


# --- transformers --------------------------------------------------------------------------------


@pytest.fixture
def hub_clip(tmp_path: Path) -> Path:
    """A directory of `CLIPModel.save_pretrained`, with a preprocessor added."""
    directory = tmp_path / "hub-clip"
    torch.manual_seed(0)
    config = HubConfig(
        projection_dim=24,
        vision_config=TOWER | {"image_size": 64, "patch_size": 16},
        text_config=TOWER | {"eos_token_id": 49407},
    )
    CLIPModel(config).save_pretrained(directory)
    processor = {"crop_size": {"height": 64, "width": 64}, "size": {"shortest_edge": 64}}
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return directory


@pytest.fixture
def hub_siglip(tmp_path: Path) -> Path:
    directory = tmp_path / "hub-siglip"
    torch.manual_seed(0)
    config = SiglipConfig(
        vision_config=TOWER | {"image_size": 64, "patch_size": 16},
        text_config=TOWER | {"vocab_size": 320},
    )
    SiglipModel(config).save_pretrained(directory)
    SiglipImageProcessor(size={"height": 64, "width": 64}).save_pretrained(directory)
    (directory / "spiece.model").write_bytes(b"a vocabulary, which weights do not need")
    return directory


def test_clip_from_transformers_and_back(hub_clip: Path, tmp_path: Path) -> None:
    foreign = read_foreign(hub_clip)
    assert foreign.config.embed_dim == 24 and foreign.config.vision.activation == "quick_gelu"
    (tmp_path / "again").mkdir()
    write_transformers(foreign.config, foreign.tensors, tmp_path / "again")
    theirs = load_file(hub_clip / "model.safetensors")
    assert_same(load_file(tmp_path / "again" / "model.safetensors"), theirs)
    assert_same(CLIPModel.from_pretrained(tmp_path / "again").state_dict(), theirs)


@pytest.mark.parametrize("older", [None, {"resample": 2}, {"processor_class": "CLIPProcessor"}])
def test_transformers_5_saves_one_file_for_the_processor(
    hub_clip: Path, tmp_path: Path, older: dict[str, Any] | None
) -> None:
    """`preprocessor_config.json` is not written any more, and not read beside the new file."""
    expected = read_foreign(hub_clip).config
    write_transformers(expected, read_foreign(hub_clip).tensors, tmp_path)  # for its tokenizer
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    (hub_clip / "preprocessor_config.json").unlink()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=64)
    CLIPProcessor(processor, tokenizer).save_pretrained(hub_clip)
    if older:
        (hub_clip / "preprocessor_config.json").write_text(json.dumps(older))
    assert read_foreign(hub_clip).config == expected


def test_a_processor_config_without_image_processor(hub_clip: Path) -> None:
    """transformers 4 wrote it beside `preprocessor_config.json`."""
    expected = read_foreign(hub_clip).config
    (hub_clip / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    assert read_foreign(hub_clip).config == expected


SQUARE = {"height": 64, "width": 64}


@pytest.mark.parametrize("siglip", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_normalize": False},
        {"do_normalize": None},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": 0.003921568627451},
        {"do_rescale": False, "do_normalize": False},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"image_mean": 0.5, "image_std": 0.25},
        {"resample": 2},
        {"size": SQUARE, "do_center_crop": True},
        {"size": [64, 64]},
        {"size": 64, "default_to_square": True},
        {"size": 64, "crop_size": 64, "do_center_crop": True},
        {"do_convert_rgb": False, "do_pad": False, "a_key_of_another_program": 1},
    ],
)
def test_preprocessing_equals_transformers(
    tmp_path: Path, settings: dict[str, Any], siglip: bool
) -> None:
    base: dict[str, Any] = {"size": SQUARE} if siglip else {"size": {"shortest_edge": 64}}
    tree = base | {"crop_size": SQUARE} | settings
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(tree))
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (90, 71, 3), np.uint8))
    processor = (SiglipImageProcessorPil if siglip else CLIPImageProcessorPil)(**tree)
    theirs = np.asarray(processor(images=[picture])["pixel_values"][0])
    ours = Preprocess(_preprocess(tmp_path, 64, siglip))(picture)
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max())


def test_defaults_are_those_of_the_named_processor(hub_clip: Path) -> None:
    tree = {"image_processor_type": "SiglipImageProcessorFast", "size": SQUARE}
    (hub_clip / "preprocessor_config.json").write_text(json.dumps(tree))
    preprocess = read_foreign(hub_clip).config.preprocess
    assert (preprocess.resize, preprocess.mean) == ("squash", (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_config_dict": {"layer_norm_eps": 0.01}},
        {"vision_config_dict": TOWER | {"layer_norm_eps": 0.01, "image_size": 64}},
        {"text_config_dict": TOWER | {"hidden_act": "gelu"}},
        {"text_config_dict": None, "vision_config_dict": None},
    ],
)
def test_older_names_of_the_towers(hub_clip: Path, changes: dict[str, Any]) -> None:
    """`vision_config_dict` replaces `vision_config`, its missing keys by defaults."""
    tree = json.loads((hub_clip / "config.json").read_text()) | changes
    (hub_clip / "config.json").write_text(json.dumps(tree))
    theirs = HubConfig.from_pretrained(hub_clip)
    for tower, ours in (
        (theirs.vision_config, _vision_tower(_tower(tree, "vision", False, hub_clip), False)),
        (theirs.text_config, _text_tower(_tower(tree, "text", False, hub_clip), False)),
    ):
        assert ours.width == tower.hidden_size
        assert ours.layers == tower.num_hidden_layers
        assert ours.eps == tower.layer_norm_eps
        assert ours.activation == tower.hidden_act


def test_siglip_from_transformers_and_back(hub_siglip: Path, tmp_path: Path) -> None:
    foreign = read_foreign(hub_siglip)
    assert foreign.config.logit_bias and foreign.config.vision.pool == "map"
    assert foreign.files == (hub_siglip / "spiece.model",)
    (tmp_path / "again").mkdir()
    write_transformers(foreign.config, foreign.tensors, tmp_path / "again")
    theirs = load_file(hub_siglip / "model.safetensors")
    assert_same(load_file(tmp_path / "again" / "model.safetensors"), theirs)
    assert_same(SiglipModel.from_pretrained(tmp_path / "again").state_dict(), theirs)


def test_siglip_with_a_wider_image_tower(hub_siglip: Path, tmp_path: Path) -> None:
    """As giant-opt's: texts are projected from the width of their tower to that of the other."""
    torch.manual_seed(0)
    config = SiglipConfig(
        vision_config=TOWER | {"image_size": 64, "patch_size": 16, "hidden_size": 48},
        text_config=TOWER | {"vocab_size": 320, "projection_size": 48},
    )
    theirs = SiglipModel(config).eval()
    theirs.save_pretrained(hub_siglip)
    foreign = read_foreign(hub_siglip)
    assert foreign.config.embed_dim == 48 and foreign.config.text.width == 32
    ids = torch.randint(0, 320, (2, 64))
    ours = build_model(foreign.config, foreign.tensors, hub_siglip)
    with torch.no_grad():
        expected = theirs.get_text_features(ids).pooler_output
        torch.testing.assert_close(ours.text(ids), expected, atol=1e-5, rtol=0)
    (tmp_path / "again").mkdir()
    write_transformers(foreign.config, foreign.tensors, tmp_path / "again")
    reloaded = SiglipModel.from_pretrained(tmp_path / "again").state_dict()
    assert_same(reloaded, load_file(hub_siglip / "model.safetensors"))
    tree = json.loads((hub_siglip / "config.json").read_text())
    tree["text_config"]["projection_size"] = 40
    (hub_siglip / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ModelError, match="projection_size is 40"):
        read_foreign(hub_siglip)


def test_transformers_reads_our_tokenizer_files(tmp_path: Path) -> None:
    config = tiny_config()
    write_transformers(config, random_tensors(config), tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert tokenizer("a photo of a cat.")["input_ids"] == [
        *(49406, 320, 1125, 539, 320, 2368, 269, 49407)
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("make", [tiny_config, siglip_config])
def test_ours_to_transformers_and_back(
    make: Callable[[], CLIPConfig], dtype: torch.dtype, tmp_path: Path
) -> None:
    config = make()
    tensors = {name: tensor.to(dtype) for name, tensor in random_tensors(config).items()}
    (tmp_path / "spiece.model").touch()
    write_transformers(config, tensors, tmp_path)
    foreign = read_foreign(tmp_path)
    assert_same(foreign.tensors, tensors)
    assert (foreign.config.vision, foreign.config.text) == (config.vision, config.text)
    assert foreign.config.preprocess.mean == config.preprocess.mean
    assert foreign.config.preprocess.resize == config.preprocess.resize


def test_shards_and_pickles_give_the_same(hub_clip: Path, tmp_path: Path) -> None:
    expected = read_foreign(hub_clip).tensors
    CLIPModel.from_pretrained(hub_clip).save_pretrained(tmp_path / "sharded", max_shard_size="2MB")
    shutil.copy(hub_clip / "preprocessor_config.json", tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert_same(read_foreign(tmp_path / "sharded").tensors, expected)

    weights = hub_clip / "model.safetensors"
    torch.save(load_file(weights), hub_clip / "pytorch_model.bin")
    weights.unlink()
    assert_same(read_foreign(hub_clip).tensors, expected)


def test_old_hub_files_with_position_ids_and_eos_2(hub_clip: Path) -> None:
    expected = read_foreign(hub_clip)
    weights = hub_clip / "model.safetensors"
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(load_file(weights) | positions, weights)
    change_json(hub_clip / "config.json", ["text_config", "eos_token_id"], 2)
    foreign = read_foreign(hub_clip)
    assert foreign.config.text == expected.config.text
    assert_same(foreign.tensors, expected.tensors)


# --- open_clip -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_config, resnet_config])
def test_ours_to_open_clip_and_back(make: Callable[[], CLIPConfig], tmp_path: Path) -> None:
    config = make()
    tensors = random_tensors(config)
    write_open_clip(config, tensors, tmp_path)
    foreign = read_foreign(tmp_path)
    assert_same(foreign.tensors, tensors)
    assert (foreign.config.vision, foreign.config.text) == (config.vision, config.text)
    assert foreign.config.preprocess == config.preprocess


def test_a_whole_siglip_to_open_clip_and_back(tmp_path: Path) -> None:
    """open_clip takes the image tower from timm by name, so it must have a published shape."""
    config = preset("SigLIP-B-16-224")
    small = replace(config.text, vocab_size=100, layers=1)
    config = replace(config, text=small, vision=replace(config.vision, activation="gelu"))
    torch.manual_seed(0)
    tensors = random_tensors(config)
    write_open_clip(config, tensors, tmp_path)
    foreign = read_foreign(tmp_path)
    assert_same(foreign.tensors, tensors)
    assert (foreign.config.vision, foreign.config.text) == (config.vision, config.text)
    with pytest.raises(ModelError, match="timm"):
        write_open_clip(siglip_config(), random_tensors(siglip_config()), tmp_path)


def test_so400m_i18n_has_no_text_projection(tmp_path: Path) -> None:
    """Settings of open_clip's ViT-SO400M-16-SigLIP-i18n-256, and its number of parameters."""
    vision_cfg = {
        "image_size": 256,
        "timm_model_name": "vit_so400m_patch16_siglip_256",
        "timm_pool": "map",
        "timm_proj": "none",
    }
    text_cfg = {
        "context_length": 64,
        "vocab_size": 250_000,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP-i18n-256",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 1152,
        "heads": 16,
        "layers": 27,
        "mlp_ratio": 3.7362,
        "no_causal_mask": True,
        "pool_type": "last",
        "proj_type": "none",
        "norm_kwargs": {"eps": 1e-6},
    }
    model_cfg = {"embed_dim": 1152, "init_logit_bias": -10, "custom_text": True}
    tree = {"model_cfg": model_cfg | {"vision_cfg": vision_cfg, "text_cfg": text_cfg}}
    config = open_clip_config(tree, {}, tmp_path / "open_clip_config.json")
    with torch.device("meta"):
        model = CLIP(config)
    assert isinstance(model.text.proj, nn.Identity)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_127_430_706


@pytest.mark.parametrize(
    ("name", "activation"),  # timm 1.0.31, vision_transformer.py
    [
        ("vit_base_patch16_siglip_224", "gelu"),
        ("vit_so400m_patch14_siglip_384", "gelu"),
        ("vit_base_patch32_siglip_256", "gelu_tanh"),
        ("vit_large_patch16_siglip_384", "gelu"),
        ("vit_large_patch16_siglip_512", "gelu_tanh"),
        ("vit_so400m_patch16_siglip_256", "gelu_tanh"),
        ("vit_giantopt_patch16_siglip_384", "gelu_tanh"),
    ],
)
def test_activations_of_timm_towers(name: str, activation: str) -> None:
    settings = {"timm_model_name": name, "timm_pool": "map", "timm_proj": "none"}
    assert _vision(Settings(settings, "config"), "gelu", 768).activation == activation


@pytest.mark.parametrize("name", ["resnet50", "vit_base_patch16_clip_224", "vit_x_patch16_siglip"])
def test_timm_towers_of_other_kinds(name: str) -> None:
    settings = {"timm_model_name": name, "timm_pool": "map", "timm_proj": "none"}
    with pytest.raises(ModelError, match=f"timm_model_name is '{name}'"):
        _vision(Settings(settings, "config"), "gelu", 768)


def test_sides_as_pairs(tmp_path: Path) -> None:
    """open_clip takes a pair of sides wherever it takes a side."""
    config = tiny_config()
    write_open_clip(config, random_tensors(config), tmp_path)
    for key in ("image_size", "patch_size"):
        side = getattr(config.vision, key)
        change_json(
            tmp_path / "open_clip_config.json", ["model_cfg", "vision_cfg", key], [side] * 2
        )
    assert read_foreign(tmp_path).config.vision == config.vision


def test_a_resnet_without_patches(tmp_path: Path) -> None:
    """open_clip's own files of ResNets have a patch size of null."""
    config = resnet_config()
    write_open_clip(config, random_tensors(config), tmp_path)
    change_json(tmp_path / "open_clip_config.json", ["model_cfg", "vision_cfg", "patch_size"], None)
    assert read_foreign(tmp_path).config.vision == config.vision


def test_a_model_config_of_open_clip_is_not_enough(tmp_path: Path) -> None:
    """The settings of `model_cfg` alone, as in open_clip's own model_configs."""
    write_open_clip(tiny_config(), random_tensors(tiny_config()), tmp_path)
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps(json.loads(path.read_text())["model_cfg"]))
    with pytest.raises(ModelError, match=r"open_clip_config\.json: model_cfg: missing"):
        read_foreign(tmp_path)


def test_text_towers_of_transformers_are_named(tmp_path: Path) -> None:
    write_open_clip(tiny_config(), random_tensors(tiny_config()), tmp_path)
    text_cfg = {"hf_model_name": "albert-base-v2", "hf_tokenizer_name": "albert-base-v2"}
    change_json(tmp_path / "open_clip_config.json", ["model_cfg", "text_cfg"], text_cfg)
    with pytest.raises(ModelError, match="hf_model_name is 'albert-base-v2'"):
        read_foreign(tmp_path)


def test_quick_gelu_in_one_tower_only_cannot_go_to_open_clip(tmp_path: Path) -> None:
    config = tiny_config()
    config = replace(config, text=replace(config.text, activation="gelu"))
    with pytest.raises(ModelError, match="in both towers or in none"):
        write_open_clip(config, random_tensors(config), tmp_path)


# --- OpenAI --------------------------------------------------------------------------------------


class Archive(nn.Module):
    """A module that can be scripted to an archive with these tensors."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *path, leaf = name.split(".")
            module: nn.Module = self
            for child in path:
                if not hasattr(module, child):
                    module.add_module(child, nn.Module())
                module = getattr(module, child)
            module.register_buffer(leaf, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return x


def openai_tensors(config: CLIPConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as OpenAI stored them: in half precision, with three descriptive ones."""
    theirs = as_tensors(export_tensors(OPENAI_TABLE, tensors))
    return {
        **{
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in theirs.items()
        },
        "input_resolution": torch.tensor(config.vision.image_size),
        "context_length": torch.tensor(config.text.context_length),
        "vocab_size": torch.tensor(config.text.vocab_size),
    }


@pytest.mark.parametrize("scripted", [True, False])
@pytest.mark.parametrize("make", [openai_config, resnet_config])
def test_openai_archives(make: Callable[[], CLIPConfig], scripted: bool, tmp_path: Path) -> None:
    config = make()
    tensors = random_tensors(config)
    path = tmp_path / f"{config.name}.pt"
    if scripted:
        torch.jit.script(Archive(openai_tensors(config, tensors))).save(path)
    else:
        torch.save({"state_dict": openai_tensors(config, tensors)}, path)
    foreign = read_foreign(path)
    assert foreign.config == config
    assert_same(
        foreign.tensors,
        {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        },
    )


def test_old_archives_do_not_count_batches(tmp_path: Path) -> None:
    config = resnet_config()
    theirs = without_counters(openai_tensors(config, random_tensors(config)))
    torch.save(theirs, tmp_path / "old.pt")
    foreign = read_foreign(tmp_path / "old.pt")
    assert foreign.tensors["vision.stem.bn1.num_batches_tracked"] == 0


def test_bare_weights_do_not_say_their_activation(tmp_path: Path) -> None:
    tensors = as_tensors(export_tensors(OPENAI_TABLE, random_tensors(openai_config())))
    torch.save(tensors, tmp_path / "bare.pt")
    with pytest.raises(ModelError, match=r"bare\.pt: .*do not say their activation"):
        read_foreign(tmp_path / "bare.pt")


def test_a_malicious_file_is_refused_in_every_format(hub_clip: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"logit_scale": Payload()}, tmp_path / "evil.pt")
    (hub_clip / "model.safetensors").unlink()
    shutil.copy(tmp_path / "evil.pt", hub_clip / "pytorch_model.bin")
    for source in (tmp_path / "evil.pt", hub_clip):
        with pytest.raises(UnsafePickleError):
            read_foreign(source)
    assert not (tmp_path / "executed").exists()


# --- what does not fit ---------------------------------------------------------------------------


def change_json(path: Path, keys: list[str], value: Any) -> None:
    tree = section = json.loads(path.read_text())
    for key in keys[:-1]:
        section = section.setdefault(key, {})
    section[keys[-1]] = value
    path.write_text(json.dumps(tree))


def change_tensors(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


Q, BIAS = "text_model.encoder.layers.1.self_attn.q_proj.weight", "visual_projection.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(Q), f"lacks '{Q}'"),
        (lambda t: t.update({BIAS: torch.zeros(24)}), f"holds '{BIAS}'"),
        (lambda t: t.update({"logit_scale": torch.zeros(7)}), "'logit_scale' has shape"),
        (
            lambda t: t.update({"visual_projection.weight": torch.zeros(32, 24)}),
            "'visual_projection.weight' has shape (32, 24)",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    hub_clip: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    change_tensors(hub_clip / "model.safetensors", change)
    with pytest.raises(ModelError) as caught:
        read_foreign(hub_clip)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "keys", "value", "message"),
    [
        ("config.json", ["model_type"], "blip", "model_type is 'blip'"),
        ("config.json", ["vision_config", "hidden_act"], "silu", "hidden_act is 'silu'"),
        ("config.json", ["vision_config", "image_size"], 96, "image_size in config.json is 96"),
        ("config.json", ["vision_config", "num_hidden_layers"], 1, "holds 'vision_model"),
        ("config.json", ["text_config", "num_hidden_layers"], 3, "lacks 'text_model"),
        ("config.json", ["projection_dim"], 12, "visual_projection.weight"),
        ("preprocessor_config.json", ["crop_size"], 32, "makes pictures of [32, 64] pixels"),
        ("preprocessor_config.json", ["resample"], 1, "resample is 1"),
        ("preprocessor_config.json", ["do_resize"], False, "do_resize is False"),
        ("preprocessor_config.json", ["do_pad"], True, "do_pad is True"),
        ("preprocessor_config.json", ["do_center_crop"], False, "do_center_crop is False"),
        ("preprocessor_config.json", ["do_normalize"], "yes", "do_normalize is 'yes'"),
        ("preprocessor_config.json", ["rescale_factor"], 0, "rescale_factor is 0"),
        ("preprocessor_config.json", ["image_std"], [1, 0, 1], "image_std is (1.0, 0.0, 1.0)"),
        ("preprocessor_config.json", ["image_mean"], [0.5], "image_mean is [0.5]"),
        ("preprocessor_config.json", ["size"], {"longest_edge": 64}, "size is {'longest_edge'"),
        ("preprocessor_config.json", ["size"], "large", "size is {'shortest_edge': 'large'}"),
        (
            "preprocessor_config.json",
            ["image_processor_type"],
            "ViTImageProcessor",
            "image_processor_type is 'ViTImageProcessor'",
        ),
        ("config.json", ["vision_config", "num_channels"], 1, "num_channels is 1"),
        ("config.json", ["vision_config", "hidden_size"], None, "hidden_size is None"),
        ("config.json", ["vision_config", "patch_size"], [16, 8], "patch_size is [16, 8]"),
        ("config.json", ["vision_config", "num_attention_heads"], 3, "num_attention_heads is 3"),
        ("config.json", ["vision_config"], [1], "vision_config: it is [1], not an object"),
        ("config.json", ["text_config", "eos_token_id"], [1, 2], "eos_token_id is [1, 2]"),
        ("config.json", ["vision_config_dict", "image_size"], 96, "in config.json is 96"),
    ],
)
def test_configurations_that_do_not_fit(
    hub_clip: Path, file: str, keys: list[str], value: Any, message: str
) -> None:
    change_json(hub_clip / file, keys, value)
    with pytest.raises(ModelError) as caught:
        read_foreign(hub_clip)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_files_that_are_missing(hub_clip: Path, file: str) -> None:
    (hub_clip / file).unlink()
    with pytest.raises(ModelError) as caught:
        read_foreign(hub_clip)
    assert file in str(caught.value) or str(hub_clip) in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["model_cfg", "vision_cfg", "attentional_pool"], "parallel", "attentional_pool is 'par"),
        (["model_cfg", "vision_cfg", "pool_type"], "avg", "pool_type is 'avg'"),
        (
            ["model_cfg", "vision_cfg", "timm_model_name"],
            "resnet50",
            "timm_model_name is 'resnet50'",
        ),
        (["model_cfg", "vision_cfg", "ls_init_value"], 0.1, "ls_init_value is 0.1"),
        (["model_cfg", "text_cfg", "hf_model_name"], "gpt2", "hf_model_name is 'gpt2'"),
        (["model_cfg", "text_cfg", "pool_type"], "first", "pool_type is 'first'"),
        (["model_cfg", "text_cfg", "hf_tokenizer_name"], "gpt2", "hf_tokenizer_name is 'gpt2'"),
        (["preprocess_cfg", "mode"], "L", "mode is 'L'"),
        (["preprocess_cfg", "size"], 96, "size is 96"),
        (["preprocess_cfg", "resize_mode"], "longest", "resize_mode is 'longest'"),
        (["preprocess_cfg", "interpolation"], "nearest", "interpolation is 'nearest'"),
        (["preprocess_cfg", "std"], [0, 1, 1], "std is (0.0, 1.0, 1.0)"),
        (["preprocess_cfg"], None, "preprocess_cfg: missing"),
        (["model_cfg"], None, "model_cfg: missing"),
        (["model_cfg", "embed_dim"], None, "embed_dim is None"),
        (["model_cfg", "vision_cfg"], None, "vision_cfg: missing"),
        (["model_cfg", "vision_cfg", "image_size"], [64, 32], "image_size is [64, 32]"),
        (["model_cfg", "vision_cfg", "width"], "wide", "width is 'wide'"),
        (["model_cfg", "vision_cfg", "layers"], [1, 2], "layers is [1, 2]"),
        (["model_cfg", "vision_cfg", "head_width"], 128, "head_width is 128"),
        (["model_cfg", "vision_cfg", "norm_kwargs"], {"bias": False}, "norm_kwargs: bias is False"),
        (["model_cfg", "text_cfg", "hf_tokenizer_name"], "gpt2", "hf_tokenizer_name is 'gpt2'"),
        (["model_cfg", "text_cfg", "heads"], 3, "heads is 3"),
    ],
)
def test_open_clip_settings_that_are_not_understood(
    tmp_path: Path, keys: list[str], value: Any, message: str
) -> None:
    config = tiny_config()
    write_open_clip(config, random_tensors(config), tmp_path)
    change_json(tmp_path / "open_clip_config.json", keys, value)
    with pytest.raises(ModelError) as caught:
        read_foreign(tmp_path)
    assert message in str(caught.value)
