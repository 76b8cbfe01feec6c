"""SigLIP 2 NaFlex: pixels, every stage and features equal those of transformers.

They are in tests/golden/transformers/naflex.npz, made by make_naflex.py.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import Siglip2Config, Siglip2Model
from transformers.models.siglip2 import Siglip2ImageProcessorPil

from tests.model.test_open_clip_parity import weights
from twotower.encode.load import load
from twotower.errors import ModelError
from twotower.inputs.patch_canvas import patch_grid
from twotower.inputs.preprocess import Preprocess, PreprocessConfig
from twotower.model.clip import CLIP
from twotower.model.foreign import ForeignModel, read_foreign
from twotower.model.foreign.naflex import read_naflex
from twotower.model.naflex import NaFlex
from twotower.model.presets import preset
from twotower.model.vision import build_vision
from twotower.model.weights import build_model

GOLDEN = Path(__file__).parents[1] / "golden" / "transformers" / "naflex.npz"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def read_golden_model(golden: Mapping[str, Any], directory: Path) -> ForeignModel:
    (directory / "config.json").write_text(str(golden["config"]))
    (directory / "preprocessor_config.json").write_text(str(golden["processor"]))
    (directory / "tokenizer.json").write_text("a vocabulary, which weights do not need")
    save_file(weights(golden), directory / "model.safetensors")
    return read_foreign(directory)


def canvases(golden: Mapping[str, Any], config: PreprocessConfig) -> torch.Tensor:
    preprocess = Preprocess(config)
    pictures = [golden[f"pictures/{i}"] for i in range(6)]
    return torch.from_numpy(np.stack([preprocess(Image.fromarray(p)) for p in pictures]))


def slots(canvas: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Return the patches of canvases as transformers has them: [B, slots, patch_size^2 * 3]."""
    side = canvas.shape[-1] // patch_size
    patches = canvas[:, :3].reshape(-1, 3, side, patch_size, side, patch_size)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(len(canvas), side * side, -1)


def test_pixels(golden: dict[str, Any], tmp_path: Path) -> None:
    config = read_golden_model(golden, tmp_path).config.preprocess
    assert (config.image_size, config.patch_size, config.channels) == (20, 4, 4)
    canvas = canvases(golden, config)
    np.testing.assert_array_equal(canvas[:, 3, 0, :2], golden["inputs/spatial_shapes"])
    np.testing.assert_allclose(slots(canvas, 4), golden["inputs/pixel_values"], atol=1e-6)


def test_stages(golden: dict[str, Any], tmp_path: Path) -> None:
    assert_stages(golden, read_golden_model(golden, tmp_path), tmp_path)


def assert_stages(golden: Mapping[str, Any], foreign: ForeignModel, directory: Path) -> None:
    model = build_model(foreign.config, foreign.tensors, directory)
    outputs: dict[str, torch.Tensor] = {}
    for name in ("vision", "text"):
        for i, block in enumerate(getattr(model, name).blocks):
            key = f"stages/{name}.block.{i}"
            block.register_forward_hook(lambda _m, _i, out, key=key: outputs.__setitem__(key, out))
    with torch.inference_mode():
        canvas = canvases(golden, foreign.config.preprocess)
        outputs["stages/image_features"] = model.vision(canvas)
        outputs["stages/text_features"] = model.text(torch.from_numpy(golden["input_ids"]))
    assert outputs.keys() == {name for name in golden if name.startswith("stages/")}
    filled = golden["inputs/pixel_attention_mask"].astype(bool)
    for name, ours in outputs.items():
        theirs = golden[name]
        assert np.isfinite(theirs).all()
        if name.startswith("stages/vision.block"):
            ours, theirs = ours[torch.from_numpy(filled)], theirs[filled]
        tolerance = TOLERANCE * max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0, err_msg=name)


def test_a_wrong_constant_would_show(
    golden: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positions are resized with antialiasing; without it, the features differ."""
    resize_weights = NaFlex.resize_weights

    def without_antialiasing(
        tower: NaFlex, index: torch.Tensor, length: torch.Tensor
    ) -> torch.Tensor:
        center = (index + 0.5) * tower.config.grid / length - 0.5
        center = center.clamp(0, tower.config.grid - 1)
        return (1 - (center[..., None] - torch.arange(tower.config.grid)).abs()).clamp(min=0)

    foreign = read_golden_model(golden, tmp_path)
    index, length = torch.arange(20.0)[None], torch.tensor([[20.0]])
    tower = build_vision(foreign.config.vision, 16)
    torch.testing.assert_close(  # they differ where the grid is reduced, and only there
        resize_weights(tower, index, length), without_antialiasing(tower, index, length)
    )
    monkeypatch.setattr(NaFlex, "resize_weights", without_antialiasing)
    with pytest.raises(AssertionError, match=r"stages/vision\.block\.0"):
        assert_stages(golden, foreign, tmp_path)


@pytest.mark.parametrize(
    "size", [(640, 480), (480, 640), (5000, 30), (30, 5000), (1, 1), (333, 77)]
)
def test_the_grid_is_that_of_transformers(size: tuple[int, int]) -> None:
    processor = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=256)
    height, width = size
    inputs = processor([np.zeros((height, width, 3), np.uint8)], input_data_format="channels_last")
    assert tuple(inputs["spatial_shapes"][0]) == patch_grid(height, width, 16, 256)


@pytest.mark.parametrize(
    ("tower", "total"),
    [
        # 375,234,050 with the SigLIP2-B-16-256 of test_towers.py, whose tensors have equal sizes
        ({}, 375_234_050),
        (
            {
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
            },
            None,
        ),
    ],
)
def test_published_sizes(tower: dict[str, int], total: int | None) -> None:
    """google/siglip2-base-patch16-naflex and google/siglip2-so400m-patch16-naflex."""
    theirs = Siglip2Config(vision_config=tower, text_config=tower | {"vocab_size": 256_000})
    with torch.device("meta"):
        expected = sum(p.numel() for p in Siglip2Model(theirs).parameters())
    base = preset("SigLIP2-B-16-256")
    names = ("width", "mlp_width", "layers", "heads")
    shape = dict(zip(names, tower.values(), strict=False))
    preprocess = PreprocessConfig(256, "patches", "bilinear", patch_size=16)
    vision = read_naflex(theirs.vision_config.to_dict(), preprocess, Path("config.json"))
    config = replace(
        base,
        embed_dim=vision.width,
        vision=vision,
        text=replace(base.text, **shape),
        preprocess=preprocess,
    )
    with torch.device("meta"):
        assert sum(p.numel() for p in CLIP(config).parameters()) == expected
    assert total in (None, expected)


def test_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of transformers is converted; its graph reads pictures of any shape."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "tiny-naflex"
    tower = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = Siglip2Config(
        vision_config=tower | {"patch_size": 4, "num_patches": 16},
        text_config=tower | {"vocab_size": 256_000},
    )
    torch.manual_seed(0)
    Siglip2Model(config).save_pretrained(directory)
    Siglip2ImageProcessorPil(patch_size=4, max_num_patches=25).save_pretrained(directory)
    words = {word: i for i, word in enumerate(("<pad>", "<eos>", "<unk>", "a", "cat", "dog"))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    encoder = load(directory)
    assert encoder.verify() > 0.99999
    rng = np.random.default_rng(0)
    shapes = [(30, 90), (64, 64), (7, 3)]
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    theirs = Siglip2Model.from_pretrained(directory).eval()
    inputs = Siglip2ImageProcessorPil.from_pretrained(directory)(pictures, return_tensors="pt")
    with torch.no_grad():
        features = theirs.get_image_features(**inputs).pooler_output
    expected = torch.nn.functional.normalize(features, dim=-1).numpy()
    np.testing.assert_allclose(encoder.encode_image(pictures), expected, atol=1e-5)
    assert not encoder.supports_patches


def test_settings_that_do_not_fit_are_refused(golden: dict[str, Any], tmp_path: Path) -> None:
    for changes, message in (
        ({"max_num_patches": 200}, r"max_num_patches is 200; give a square number"),
        ({"patch_size": 5}, r"vision_config\.patch_size is 4"),
        ({"resample": 0}, "resample is 0"),
    ):
        processor = json.dumps(json.loads(str(golden["processor"])) | changes)
        with pytest.raises(ModelError, match=message):
            read_golden_model(golden | {"processor": processor}, tmp_path)
    with pytest.raises(ModelError, match="makes no square"):
        Preprocess(PreprocessConfig(20, "patches", patch_size=4)).square(Image.new("RGB", (9, 9)))
    with pytest.raises(ValueError, match="give a patch_size with 'patches' only"):
        PreprocessConfig(20, "patches")
