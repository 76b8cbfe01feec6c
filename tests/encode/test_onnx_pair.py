"""Pairs of ONNX graphs in the layouts of other projects become model directories."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("torch")

import twotower
from tests.tiny_models import random_tensors, tiny_config
from twotower.encode.convert import write_directory
from twotower.encode.encoder import Encoder
from twotower.encode.load import load
from twotower.encode.onnx_pair import find_pair
from twotower.errors import ModelError
from twotower.model.config import is_model_directory

TEXTS = ["a cat", "two dogs that run along a long beach in the evening sun", "x"]
PICTURES = [np.random.default_rng(n).integers(0, 256, (80, 70 + n, 3), np.uint8) for n in range(3)]

pytestmark = pytest.mark.filterwarnings("ignore:.*(temperature|differently)")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def hub_style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with transformers' preparation of inputs."""
    config = tiny_config()
    config = replace(
        config,
        preprocess=replace(config.preprocess, rgb="before_resize", crop_offset="floor"),
        tokenizer=replace(config.tokenizer, cleaning="huggingface", pad_id=49407),
    )
    directory = tmp_path_factory.mktemp("models") / "hub-style"
    write_directory(config, random_tensors(config), (), directory)
    return directory


@pytest.fixture(scope="module")
def xenova(hub_style: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pairs") / "xenova"
    twotower.convert(hub_style, directory, "onnx")
    return directory


def assert_same_embeds(ours: Encoder, theirs: Encoder) -> None:
    np.testing.assert_allclose(ours.encode_text(TEXTS), theirs.encode_text(TEXTS), atol=1e-5)
    np.testing.assert_allclose(
        ours.encode_image(PICTURES), theirs.encode_image(PICTURES), atol=1e-5
    )


def change_graph(
    path: Path, name: str, output: str, kind: int, with_mask: bool = False, fixed: bool = False
) -> None:
    """Rename input and output of a graph, as another exporter would have named them.

    Args:
        fixed: allow one row and, of a text, the whole context alone.
    """
    model = onnx.load(path)
    graph = model.graph
    old, tensor_type = graph.input[0].name, graph.input[0].type.tensor_type
    our_kind = tensor_type.elem_type
    nodes = [helper.make_node("Cast", [name], [f"{old}.ours"], to=our_kind), *graph.node]
    for node in nodes[1:]:
        node.input[:] = [f"{old}.ours" if value == old else value for value in node.input]
    if with_mask:  # used, but without an effect
        mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["n", "length"])
        graph.input.append(mask)
        nodes[0] = helper.make_node("Mul", [name, "attention_mask"], [f"{old}.ours"])
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input[0].name, tensor_type.elem_type = name, kind
    if fixed:
        tensor_type.shape.dim[0].dim_value = 1
        if len(tensor_type.shape.dim) == 2:
            tensor_type.shape.dim[1].dim_value = 77
    graph.node[-1].output[0] = output
    graph.output[0].name = output
    onnx.save(model, path)


def test_the_layout_of_xenova(xenova: Path, hub_style: Path, cache: Path) -> None:
    names = {str(path.relative_to(xenova)) for path in xenova.rglob("*")}
    assert names >= {"onnx/vision_model.onnx", "onnx/text_model.onnx", "tokenizer.json"}
    encoder = load(xenova)
    assert encoder.config.name == "xenova" and encoder.logit_scale == pytest.approx(100)
    assert_same_embeds(encoder, load(hub_style))
    assert load(xenova).directory == encoder.directory
    assert len(list(cache.iterdir())) == 1
    (xenova / "onnx" / "text_model.onnx").touch()  # changed: converted again
    assert load(xenova).directory != encoder.directory
    weights = (encoder.directory / "model.safetensors").stat().st_size
    assert weights > 100 * (encoder.directory / "text.onnx").stat().st_size


def test_openvino_runs_a_pair(xenova: Path, hub_style: Path) -> None:
    assert_same_embeds(load(xenova, engine="openvino"), load(hub_style))


def test_the_layout_of_qdrant(xenova: Path, hub_style: Path, tmp_path: Path) -> None:
    """Two folders with `model.onnx`, of which that of pictures has the settings of inputs."""
    for folder, file in (("clip-vision", "vision_model.onnx"), ("clip-text", "text_model.onnx")):
        (tmp_path / folder).mkdir()
        shutil.copyfile(xenova / "onnx" / file, tmp_path / folder / "model.onnx")
    shutil.copy(xenova / "preprocessor_config.json", tmp_path / "clip-vision")
    settings = json.loads((xenova / "config.json").read_text())["vision_config"]
    text = json.dumps(settings | {"model_type": "clip_vision_model"})
    (tmp_path / "clip-vision" / "config.json").write_text(text)
    change_graph(
        tmp_path / "clip-text" / "model.onnx",
        *("input_ids", "text_embeds", TensorProto.INT64),
        with_mask=True,
    )
    encoder = load(f"{tmp_path}/clip-vision,{tmp_path}/clip-text")
    assert encoder.config.name == "clip-vision"
    assert_same_embeds(encoder, load(hub_style))


def test_the_layout_of_immich(tiny_directory: Path, tmp_path: Path) -> None:
    """open_clip's settings, int32 ids, and graphs for one picture and a whole context."""
    folder = tmp_path / "ViT-tiny__random"
    for name, graph in (("visual", "vision"), ("textual", "text")):
        (folder / name).mkdir(parents=True)
        onnx.save(onnx.load(tiny_directory / f"{graph}.onnx"), folder / name / "model.onnx")
    for name, kind in (("image", TensorProto.FLOAT), ("text", TensorProto.INT32)):
        path = folder / ("visual" if name == "image" else "textual") / "model.onnx"
        change_graph(path, name, "embedding", kind, fixed=True)
    (folder / "config.json").write_text(
        json.dumps(
            {
                "embed_dim": 32,
                "vision_cfg": {"image_size": 64, "layers": 2, "width": 48, "patch_size": 16},
                "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32},
            }
        )
    )
    config = tiny_config().preprocess
    preprocess = {"size": [64, 64], "mode": "RGB", "mean": config.mean, "std": config.std}
    preprocess |= {"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
    (folder / "visual" / "preprocess_cfg.json").write_text(json.dumps(preprocess))
    assert not is_model_directory(folder)
    for engine in ("onnxruntime", "openvino"):
        encoder = load(folder, engine=engine)
        assert encoder.config.name == "ViT-tiny__random"
        assert_same_embeds(encoder, load(tiny_directory))
    assert load(folder).verify() > 0.9999


def test_graphs_without_settings_are_prepared_as_openai_does(
    tiny_directory: Path, tmp_path: Path
) -> None:
    for name in ("vision", "text"):
        onnx.save(onnx.load(tiny_directory / f"{name}.onnx"), tmp_path / f"{name}_model.onnx")
    for model in (tmp_path, f"{tmp_path}/vision_model.onnx,{tmp_path}/text_model.onnx"):
        assert_same_embeds(load(model), load(tiny_directory))


def test_a_siglip_pair_has_its_padding_and_vocabulary(
    siglip_directory: Path, tmp_path: Path
) -> None:
    twotower.convert(siglip_directory, tmp_path / "pair", "onnx")
    encoder = load(tmp_path / "pair")
    assert encoder.config.needs_padding and encoder.config.tokenizer.kind == "sentencepiece"
    texts = ["a cat", "two dogs"]  # punctuation is cleaned otherwise
    expected = load(siglip_directory).encode_text(texts)
    np.testing.assert_allclose(encoder.encode_text(texts), expected, atol=1e-5)


def test_pairs_that_cannot_be_used(xenova: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(xenova, tmp_path / "copy")
    (copy / "config.json").write_text('{"model_type": "blip"}')
    with pytest.raises(ModelError, match="model_type is 'blip'"):
        load(copy)
    shutil.copy(xenova / "config.json", copy)
    (copy / "onnx" / "text_model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"text_model\.onnx: .*give a graph that onnxruntime"):
        load(copy)
    model = onnx.load(xenova / "onnx" / "text_model.onnx")
    [projection] = [node for node in model.graph.node if "text_embeds" in node.output]
    pooled = projection.input[0]  # twice as wide as the features of pictures
    projection.CopyFrom(helper.make_node("Concat", [pooled, pooled], ["text_embeds"], axis=1))
    onnx.save(model, copy / "onnx" / "text_model.onnx")
    with pytest.raises(ModelError, match=r"shape \(1, 32\), but .* of"):
        load(copy)
    shutil.copy(copy / "onnx" / "vision_model.onnx", copy / "onnx" / "text_model.onnx")
    with pytest.raises(ModelError, match="first input has the shape"):
        load(copy)
    with pytest.raises(ModelError, match="no ONNX graph"):
        load(f"{xenova},{xenova}")
    with pytest.raises(ModelError, match="leave out --arch"):
        load(xenova, arch="ViT-B-32")
    with pytest.raises(ModelError, match="does not name its layers"):
        twotower.convert(xenova, tmp_path / "hub", "transformers")
    with pytest.raises(ModelError, match="does not name its layers"):
        twotower.convert(load(xenova).directory, tmp_path / "hub", "transformers")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "copy"]


def test_a_model_directory_is_no_pair(tiny_directory: Path) -> None:
    assert find_pair(tiny_directory) is None
