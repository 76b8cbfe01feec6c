"""Models that `convert --to onnx` and `--to sentence_transformers` write, in other libraries."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import PIL.Image
import pytest
import tokenizers

torch = pytest.importorskip("torch")

from transformers import CLIPModel, CLIPProcessor

import twotower
from twotower.arrays import normalize
from twotower.errors import ModelError

TEXTS = ["a photo of a cat.", "Two DOGS & a  hat, don't!", "ein Foto von Äpfeln 🍎", "x" * 300]
IMAGE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 93, 3), np.uint8))

pytestmark = pytest.mark.filterwarnings("ignore:.*differently")


@pytest.fixture(scope="module")
def folder(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    for to in ("onnx", "sentence_transformers", "transformers"):
        twotower.convert(tiny_directory, folder / to, to)
    return folder


def test_an_onnx_pair_computes_what_transformers_computes(folder: Path) -> None:
    model = CLIPModel.from_pretrained(folder / "transformers").eval()
    processor = CLIPProcessor.from_pretrained(folder / "onnx")  # the pair's own settings
    inputs = processor(
        text=TEXTS[:3], images=[IMAGE], return_tensors="pt", padding=True, truncation=True
    )
    with torch.inference_mode():
        expected = model(**inputs)
    for file, key, name in (
        ("vision_model.onnx", "pixel_values", "image_embeds"),
        ("text_model.onnx", "input_ids", "text_embeds"),
    ):
        session = onnxruntime.InferenceSession(folder / "onnx" / "onnx" / file)
        [features] = session.run([name], {key: inputs[key].numpy()})
        np.testing.assert_allclose(normalize(features), getattr(expected, name), atol=1e-5)


def test_the_tokenizer_file_gives_the_ids_of_the_model(folder: Path) -> None:
    """transformers.js reads `tokenizer.json`."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "onnx" / "tokenizer.json"))
    with pytest.warns(UserWarning, match="temperature"):
        encoder = twotower.load(folder / "onnx")
    ours = encoder.tokenizer(TEXTS[:3])
    for text, row, length in zip(TEXTS, ours.input_ids, ours.lengths, strict=False):
        assert tokenizer.encode(text).ids == row[:length].tolist()


def test_sentence_transformers_has_its_layout(folder: Path) -> None:
    """The library itself loads it in `test_mixed_inputs.py`; here, what its module calls."""
    directory = folder / "sentence_transformers"
    [module] = json.loads((directory / "modules.json").read_text())
    assert module["type"] == "sentence_transformers.models.CLIPModel"
    model = CLIPModel.from_pretrained(directory / module["path"]).eval()
    processor = CLIPProcessor.from_pretrained(directory / module["path"])
    inputs = processor(text=["a cat"], images=[IMAGE], return_tensors="pt", padding=True)
    with torch.inference_mode():
        output = model(**inputs)
    expected = twotower.load(folder / "transformers")
    np.testing.assert_allclose(output.text_embeds, expected.encode_text("a cat"), atol=1e-5)
    np.testing.assert_allclose(output.image_embeds, expected.encode_image(IMAGE), atol=1e-4)


def test_sentence_transformers_has_no_siglip(siglip_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="none for SigLIP"):
        twotower.convert(siglip_directory, tmp_path / "model", "sentence_transformers")
    assert not (tmp_path / "model").exists()
