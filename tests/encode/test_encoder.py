import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from tests.tiny_models import random_tensors, tiny_config
from twotower.arrays import normalize
from twotower.encode.convert import write_directory
from twotower.encode.encoder import Encoder
from twotower.encode.patches import UnpooledEncoder
from twotower.errors import EngineError, PictureError, VerificationError
from twotower.inputs.tokenizer import LexiconConfig, TokenizerConfig
from twotower.model.config import SentenceEncoderConfig, ViTConfig
from twotower.model.weight_files import GROUP
from twotower.model.weights import GroupedWeight, load_model

TEXTS = ["a cat", "two dogs that run along a long beach in the evening sun", "x", "a red car"]


def pictures(count: int = 5) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (80 + 7 * i, 70, 3), np.uint8) for i in range(count)]


@pytest.fixture(scope="module")
def encoder(tiny_directory: Path) -> Encoder:
    return Encoder(tiny_directory)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree_with_torch(tiny_directory: Path, engine: str) -> None:
    encoder, reference = Encoder(tiny_directory, engine), Encoder(tiny_directory, "torch")
    np.testing.assert_allclose(encoder.encode_text(TEXTS), reference.encode_text(TEXTS), atol=1e-4)
    np.testing.assert_allclose(
        encoder.encode_image(pictures()), reference.encode_image(pictures()), atol=1e-4
    )
    assert encoder.verify() > 0.9999


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_reduced_weights_agree_across_engines(tmp_path: Path, stored: str) -> None:
    config, tensors = tiny_config(), random_tensors(tiny_config())
    if stored == "float16":
        tensors = {name: t.half() if t.ndim > 1 else t for name, t in tensors.items()}
    directory = tmp_path / stored
    write_directory(config, tensors, (), directory, int8=stored == "int8")
    assert (directory / "model.safetensors").stat().st_size < 3_500_000  # 6.7 MB in float32
    embeds = [
        Encoder(directory, e).encode_text(TEXTS) for e in ("onnxruntime", "openvino", "torch")
    ]
    np.testing.assert_allclose(embeds[0], embeds[2], atol=1e-4)
    np.testing.assert_allclose(embeds[1], embeds[2], atol=1e-4)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree_on_weights_in_four_bits(tmp_path: Path, engine: str) -> None:
    config = replace(tiny_config(), vision=ViTConfig(64, 16, 64, 2, 4, 96, "quick_gelu"))
    tensors = random_tensors(config)
    for name in [name for name in tensors if "vision.blocks" in name and tensors[name].ndim == 2]:
        out_features, in_features = tensors.pop(name).shape
        levels = torch.randint(-8, 8, (out_features, in_features), dtype=torch.int8)
        scale = 0.05 * torch.randn(out_features, in_features // GROUP)
        tensors |= GroupedWeight(levels, scale.half()).stored(name)
    directory = tmp_path / "model"
    write_directory(config, tensors, (), directory, int8=True)
    encoder, reference = Encoder(directory, engine), Encoder(directory, "torch")
    embeds = encoder.encode_image(pictures())
    np.testing.assert_allclose(embeds, reference.encode_image(pictures()), atol=1e-4)
    np.testing.assert_allclose(embeds[:1], encoder.encode_image(pictures()[:1]), atol=1e-5)
    pixel_values = np.stack([encoder.preprocess(picture) for picture in pictures()])
    patches, expected = (
        UnpooledEncoder(directory, name).patches(pixel_values) for name in (engine, "torch")
    )
    np.testing.assert_allclose(patches, expected, atol=1e-3)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree_on_a_lexicon(tmp_path: Path, engine: str) -> None:
    words, names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "car", "x"], ["car", "red car"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "lexicon.txt").write_text("\n".join(names))
    text = SentenceEncoderConfig(32, 8, 64, 1, 2, 64, lexicon_size=2, lexicon_rank=32)
    lexicon = LexiconConfig("lexicon.txt", first_id=8)
    tokenizer = TokenizerConfig("wordpiece", 16, "none", 0, 2, 3, {}, "vocab.txt", lexicon)
    config = replace(tiny_config(), text=text, tokenizer=tokenizer)
    files = [tmp_path / name for name in tokenizer.files]
    directory = tmp_path / "model"
    write_directory(config, random_tensors(config), files, directory, int8=True)
    encoder, reference = Encoder(directory, engine), Encoder(directory, "torch")
    texts = ["a red car", "a car", "x"]
    embeds = encoder.encode_text(texts)
    np.testing.assert_allclose(embeds, reference.encode_text(texts), atol=1e-4)
    np.testing.assert_allclose(embeds[1:2], encoder.encode_text("a car"), atol=1e-5)


FREE_ENGINES_THEN_INTERRUPT = """
import os, signal, sys
from pathlib import Path
from twotower.encode.engine import start_engine

towers = [start_engine("openvino", Path(sys.argv[1]), tower) for tower in ("vision", "text")]
while towers:
    del towers[0]
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_openvino_engines_were_freed(tiny_directory: Path) -> None:
    command = [sys.executable, "-c", FREE_ENGINES_THEN_INTERRUPT, str(tiny_directory)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted\n", "")


def test_text_embeds_equal_the_full_context(encoder: Encoder) -> None:
    """Short texts are not padded to 77 positions, which does not change their embeds."""
    tokens = encoder.tokenizer(TEXTS)
    assert tokens.input_ids.shape == (4, 77)
    with torch.inference_mode():
        full = load_model(encoder.directory).encode_text(torch.from_numpy(tokens.input_ids))
    np.testing.assert_allclose(encoder.encode_text(TEXTS), full.numpy(), atol=1e-5)


def test_text_positions_after_the_longest_are_not_computed(encoder: Encoder) -> None:
    shapes = []
    engine = encoder._text
    encoder.__dict__["_text"] = lambda ids: shapes.append(ids.shape) or engine(ids)
    try:
        encoder.encode_text(TEXTS)
        encoder.encode_text(TEXTS, batch_size=2)
    finally:
        encoder.__dict__["_text"] = engine
    assert [shape[1] for shape in shapes] == [14, 4, 14]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_siglip_sees_its_full_context(siglip_directory: Path, engine: str) -> None:
    """A bidirectional tower pooled at the last position needs its padding."""
    encoder = Encoder(siglip_directory, engine)
    input_ids = encoder.tokenizer(TEXTS).input_ids
    assert input_ids.shape == (4, 64)
    with torch.inference_mode():
        full = load_model(siglip_directory).encode_text(torch.from_numpy(input_ids))
    np.testing.assert_allclose(encoder.encode_text(TEXTS), full.numpy(), atol=1e-5)
    assert encoder.logit_bias is not None and encoder.verify() > 0.9999


def test_batches_do_not_change_results(encoder: Encoder) -> None:
    whole = encoder.encode_text(TEXTS)
    single = np.concatenate([encoder.encode_text(text) for text in TEXTS])
    np.testing.assert_allclose(whole, single, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    images = encoder.encode_image(pictures(), batch_size=2)
    np.testing.assert_allclose(images, encoder.encode_image(pictures()), atol=1e-5)
    assert images.dtype == np.float32 and images.shape == (5, 32)


def test_all_kinds_of_picture_give_the_same_vector(encoder: Encoder, tmp_path: Path) -> None:
    array = pictures(1)[0]
    image, path = PIL.Image.fromarray(array), tmp_path / "one.png"
    image.save(path)
    sources = [array, image, path, str(path), path.read_bytes()]
    embeds = encoder.encode_image(sources)
    np.testing.assert_allclose(embeds, embeds[:1].repeat(5, axis=0), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_image(path), embeds[:1], atol=1e-6)


def test_empty_input(encoder: Encoder) -> None:
    assert encoder.encode_text([]).shape == (0, 32)
    assert encoder.encode_image([]).shape == (0, 32)


def test_truncation_is_reported(encoder: Encoder) -> None:
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the 77 tokens"):
        encoder.encode_text(["a cat", "cat " * 100])


def test_encode_is_compatible_with_sentence_transformers(encoder: Encoder) -> None:
    image = PIL.Image.fromarray(pictures(1)[0])
    mixed = encoder.encode(["a cat", image, "a dog"], batch_size=1, normalize_embeddings=True)
    assert mixed.shape == (3, 32)
    np.testing.assert_allclose(mixed[::2], encoder.encode_text(["a cat", "a dog"]), atol=1e-5)
    np.testing.assert_allclose(mixed[1:2], encoder.encode_image(image), atol=1e-5)
    raw = encoder.encode("a cat")
    assert raw.shape == (32,) and abs(np.linalg.norm(raw) - 1) > 1e-3
    np.testing.assert_allclose(normalize(raw[None]), encoder.encode_text("a cat"), atol=1e-5)


def test_a_bad_picture_is_named(encoder: Encoder, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a picture")
    with pytest.raises(PictureError, match=r"bad\.jpg"):
        encoder.encode_image([pictures(1)[0], bad])


def test_unknown_engine(tiny_directory: Path) -> None:
    with pytest.raises(EngineError, match="tensorrt: no such engine; choose one of onnxruntime"):
        Encoder(tiny_directory, "tensorrt").encode_text("a cat")


def changed(tiny_directory: Path, directory: Path, *path: str, to: object) -> Path:
    """Copy the tiny model and change a value of its config.json."""
    shutil.copytree(tiny_directory, directory)
    tree = json.loads((directory / "config.json").read_text())
    section = tree
    for key in path[:-1]:
        section = section[key]
    assert section[path[-1]] != to
    section[path[-1]] = to
    (directory / "config.json").write_text(json.dumps(tree))
    return directory


@pytest.mark.parametrize(
    ("path", "to", "engine"),
    [
        (("preprocess", "interpolation"), "bilinear", "onnxruntime"),
        (("preprocess", "resize"), "squash", "onnxruntime"),
        (("preprocess", "mean"), [0.5, 0.5, 0.5], "onnxruntime"),
        (("tokenizer", "cleaning"), "none", "onnxruntime"),
        (("vision", "activation"), "relu", "torch"),
        (("text", "activation"), "relu", "torch"),
    ],
)
def test_a_changed_model_is_refused(
    tiny_directory: Path, tmp_path: Path, path: tuple[str, ...], to: object, engine: str
) -> None:
    directory = changed(tiny_directory, tmp_path / "changed", *path, to=to)
    with pytest.raises(VerificationError, match="golden"):
        Encoder(directory, engine).verify()


def test_changed_weights_are_refused_on_first_use(tiny_directory: Path, tmp_path: Path) -> None:
    directory = tmp_path / "changed"
    shutil.copytree(tiny_directory, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["text.blocks.1.mlp.fc1.weight"] *= 1.5
    save_file(tensors, directory / "model.safetensors")
    encoder = Encoder(directory)
    encoder.encode_image(pictures(1))  # that tower is as it was
    with pytest.raises(VerificationError, match="golden text 0"):
        encoder.encode_text("a cat")


def test_a_model_without_golden_vectors_is_refused(tiny_directory: Path, tmp_path: Path) -> None:
    directory = tmp_path / "bare"
    shutil.copytree(tiny_directory, directory)
    (directory / "golden.safetensors").unlink()
    with pytest.raises(VerificationError, match="golden vectors are missing"):
        Encoder(directory).encode_text("a cat")
