"""Import and export of weights: exact round trips, and errors that name what does not fit."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPConfig as HubConfig
from transformers import (
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from tests.tiny_models import random_tensors, resnet_config, siglip_config, tiny_config
from twotower.errors import ModelError, UnsafePickleError
from twotower.model.config import CLIPConfig, TextTransformerConfig, ViTConfig
from twotower.model.foreign import read_foreign, write_open_clip, write_transformers
from twotower.model.foreign.open_clip import _vision
from twotower.model.foreign.openai import OPENAI_TABLE
from twotower.model.foreign.rename import Settings, export_tensors
from twotower.model.presets import preset
from twotower.model.weight_files import Tensors
from twotower.model.weights import as_tensors

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


def test_siglip_from_transformers_and_back(hub_siglip: Path, tmp_path: Path) -> None:
    foreign = read_foreign(hub_siglip)
    assert foreign.config.logit_bias and foreign.config.vision.pool == "map"
    assert foreign.files == (hub_siglip / "spiece.model",)
    (tmp_path / "again").mkdir()
    write_transformers(foreign.config, foreign.tensors, tmp_path / "again")
    theirs = load_file(hub_siglip / "model.safetensors")
    assert_same(load_file(tmp_path / "again" / "model.safetensors"), theirs)
    assert_same(SiglipModel.from_pretrained(tmp_path / "again").state_dict(), theirs)


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
    assert _vision(Settings(settings, "config"), "gelu").activation == activation


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
        (["model_cfg", "vision_cfg", "attentional_pool"], True, "attentional_pool is True"),
        (["model_cfg", "vision_cfg", "ls_init_value"], 0.1, "ls_init_value is 0.1"),
        (["model_cfg", "text_cfg", "hf_model_name"], "roberta", "hf_model_name is 'roberta'"),
        (["model_cfg", "text_cfg", "embed_cls"], True, "embed_cls is True"),
        (["model_cfg", "multimodal_cfg"], {}, "multimodal_cfg is {}"),
        (["preprocess_cfg", "mode"], "L", "mode is 'L'"),
        (["preprocess_cfg", "size"], 96, "size is 96"),
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
