"""Every stage of tiny models of more families equals open_clip 3.3.0's, and they load.

The golden files, made by tests/golden/make_open_clip_families.py, have no weights: these are a
function of the names (tests/golden/named_weights.py).
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.golden.named_weights import named_weights
from tests.tiny_vocabularies import write_vocabulary
from twotower.encode.load import load
from twotower.errors import ModelError
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.clip import CLIP
from twotower.model.config import BertConfig, ConvNeXtConfig
from twotower.model.foreign import (
    ForeignModel,
    open_clip,
    read_foreign,
    timm_trunks,
    write_open_clip,
)
from twotower.model.foreign.hub_tokenizer import BERT, NLLB, ROBERTA, SpecialTokens
from twotower.model.weights import build_model

GOLDEN = Path(__file__).parents[1] / "golden" / "open_clip_families"
TOLERANCE = 1e-5
VOCABULARIES: dict[str, SpecialTokens] = {
    "metaclip2": ROBERTA,
    "clipa": BERT,
    "roberta": ROBERTA,
    "nllb-siglip": NLLB,
    "biomedclip": BERT,
    "bert-pooler": BERT,
}
NAMES = [*VOCABULARIES, "convnext-linear", "convnext-mlp", "coca"]


@pytest.fixture(autouse=True)
def tiny_trunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the trunks of the golden files' names by those that they were made with."""
    convnext = ConvNeXtConfig(64, (1, 2, 1, 1), (8, 12, 16, 32))
    monkeypatch.setitem(timm_trunks.CONVNEXTS, "convnext_base", convnext)
    monkeypatch.setitem(timm_trunks.VITS, "base", (40, 2, 2))
    monkeypatch.setitem(open_clip.TIMM_WIDTHS, "base", (40, 2, 2, 160))


def write_golden_model(name: str, directory: Path, **text_cfg: Any) -> Path:
    """Write the model of a golden file as open_clip does, with changes of its text_cfg."""
    directory.mkdir(parents=True)
    with np.load(GOLDEN / f"{name}.npz") as golden:
        config, shapes = json.loads(str(golden["config"])), json.loads(str(golden["shapes"]))
    config["text_cfg"] |= text_cfg
    tree = {"model_cfg": config, "preprocess_cfg": {"interpolation": "bilinear"}}
    (directory / "open_clip_config.json").write_text(json.dumps(tree))
    tensors = {key: torch.from_numpy(array) for key, array in named_weights(shapes).items()}
    save_file(tensors, directory / "open_clip_model.safetensors")
    if name in VOCABULARIES:
        write_vocabulary(VOCABULARIES[name], directory)
    return directory


def outputs_of(
    model: CLIP, names: list[str], pixel_values: np.ndarray, input_ids: np.ndarray
) -> dict[str, torch.Tensor]:
    """Return the outputs of the modules with these names."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs.__setitem__(name, output)

    for name in names:
        model.get_submodule(name).register_forward_hook(keep(name))
    with torch.inference_mode():
        model.embed(torch.from_numpy(pixel_values), torch.from_numpy(input_ids))
    return outputs


def assert_stages(foreign: ForeignModel, golden: np.lib.npyio.NpzFile) -> None:
    size = foreign.config.vision.image_size
    pixel_values = named_weights({"pixel_values": (2, 3, size, size)})["pixel_values"]
    names = [key.removeprefix("stages/") for key in golden.files if key.startswith("stages/")]
    assert {"vision", "text"} < set(names)
    model = build_model(foreign.config, foreign.tensors, GOLDEN)
    outputs = outputs_of(model, names, pixel_values, golden["input_ids"])
    text = foreign.config.text
    length = golden["input_ids"].shape[1]
    visible = golden["input_ids"] != (text.pad_id if isinstance(text, BertConfig) else -1)
    for name in names:
        ours, theirs = outputs[name].numpy(), golden[f"stages/{name}"]
        if name.startswith("text."):  # RoBERTa gives padding other positions
            ours, theirs = ours[:, :length][visible], theirs[:, :length][visible]
        scale = max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * scale, rtol=0, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_stages(name: str, tmp_path: Path) -> None:
    foreign = read_foreign(write_golden_model(name, tmp_path / name))
    with np.load(GOLDEN / f"{name}.npz") as golden:
        assert_stages(foreign, golden)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversion, ONNX graphs and golden vectors: `load` and its check."""
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    model = load(write_golden_model(name, tmp_path / name))
    assert model.verify() > 0.9999
    texts = ["a photo", "a photo of the two dogs in a red car"]
    together, alone = model.encode_text(texts), [model.encode_text(text)[0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_open_clip_cannot_be_given_back(name: str, tmp_path: Path) -> None:
    foreign = read_foreign(write_golden_model(name, tmp_path / name))
    with pytest.raises(ModelError, match="keep it in twotower's format"):
        write_open_clip(foreign.config, foreign.tensors, tmp_path)


# One setting changed, and the stages differ by more than the tolerance

CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "metaclip2": ("text", {"eos_id": 7}),
    "clipa": ("vision", {"pool": "class"}),
    "coca": ("vision", {"pool_heads": 2}),
    "roberta": ("text", {"first_position": 1}),
    "nllb-siglip": ("text", {"first_position": 1}),
    "biomedclip": ("text", {"pool": "mean"}),
    "bert-pooler": ("text", {"activation": "gelu_tanh"}),
    "convnext-linear": ("vision", {"eps": 1e-3}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_shows(name: str, tmp_path: Path) -> None:
    foreign = read_foreign(write_golden_model(name, tmp_path / name))
    tower, settings = CHANGES[name]
    towers: dict[str, Any] = {tower: replace(getattr(foreign.config, tower), **settings)}
    changed = replace(foreign, config=replace(foreign.config, **towers))
    with np.load(GOLDEN / f"{name}.npz") as golden, pytest.raises(AssertionError, match=tower):
        assert_stages(changed, golden)


def test_coca_needs_its_shifted_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unshifted(input_ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.pad(input_ids == 0, (0, 1))
        mask = torch.zeros_like(hidden, dtype=x.dtype).masked_fill(hidden, float("-inf"))
        return mask[:, None, None]

    foreign = read_foreign(write_golden_model("coca", tmp_path / "coca"))
    monkeypatch.setattr("twotower.model.text.class_token_mask", unshifted)
    with np.load(GOLDEN / "coca.npz") as golden, pytest.raises(AssertionError, match="text"):
        assert_stages(foreign, golden)


# MetaCLIP 2


def test_metaclip_2_tokenizer(tmp_path: Path) -> None:
    config = read_foreign(write_golden_model("metaclip2", tmp_path / "xlm-v")).config
    tokenizer = config.tokenizer
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 2, 1)
    assert tokenizer.cleaning == "whitespace" and tokenizer.context_length == 12
    (tmp_path / "xlm-v" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json"):
        read_foreign(tmp_path / "xlm-v")


def test_clipa_tokenizer(tmp_path: Path) -> None:
    """[SEP] at the end of a text becomes 0, and the text fills up with 0."""
    directory = write_golden_model("clipa", tmp_path / "clipa")
    config = read_foreign(directory).config.tokenizer
    ids = load_tokenizer(config, directory)(["a photo", "a " * 40]).input_ids
    begin, a, photo = ids[0, :3].tolist()
    assert ids[0].tolist() == [begin, a, photo, *[0] * 9]
    assert ids[1].tolist() == [begin, *[a] * 10, 0]


def test_nllb_begins_with_the_language(tmp_path: Path) -> None:
    config = read_foreign(write_golden_model("nllb-siglip", tmp_path / "nllb")).config
    assert (config.tokenizer.bos_id, config.tokenizer.eos_id, config.tokenizer.pad_id) == (0, 2, 1)
    assert config.logit_bias and config.vision.pool == "map"
