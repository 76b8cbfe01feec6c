"""Image towers in int8: their rounding, and that a picture's embed does not depend on its batch."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from twotower.arrays import Float32Array, normalize
from twotower.cli.main import main
from twotower.encode.engine import start_engine
from twotower.encode.int8 import (
    GELU_MINIMUM,
    LEAST_BOUND,
    find_linear_layers,
    int8_graph,
    smoothing_factors,
    write_int8_graph,
)
from twotower.encode.load import find_model, load
from twotower.encode.sessions import start_session
from twotower.errors import EngineError, VerificationError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def random_pixels(count: int, side: int, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).standard_normal((count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("name", ["fresh_directory", "siglip_directory"])
def test_the_embeds_are_nearly_those_of_float32(name: str, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(name)
    pixel_values = random_pixels(16, 64)
    exact = normalize(start_engine("onnxruntime", directory, "vision")(pixel_values))
    rounded = normalize(start_engine("onnxruntime-int8", directory, "vision")(pixel_values))
    cosines = (exact * rounded).sum(axis=1)
    assert cosines.min() > 0.99
    assert cosines.max() < 0.9999999  # it does round


def test_an_embed_does_not_depend_on_its_batch(fresh_directory: Path) -> None:
    engine = start_engine("onnxruntime-int8", fresh_directory, "vision")
    pixel_values = random_pixels(8, 64)
    pixel_values[3:] *= 100  # would coarsen a scale that is shared by the batch
    together = engine(pixel_values)
    for row, picture in enumerate(pixel_values):
        np.testing.assert_array_equal(engine(picture[None])[0], together[row])


def test_all_layers_but_the_projection_are_converted(fresh_directory: Path) -> None:
    before = onnx.load(fresh_directory / "vision.onnx", load_external_data=False)
    after = onnx.load(int8_graph(fresh_directory))
    layers = 2 * 4  # blocks x (qkv, out, fc1, fc2)
    assert len(find_linear_layers(onnx.load(fresh_directory / "vision.onnx"))) == layers + 1
    operators = Counter(node.op_type for node in after.graph.node)
    assert operators["MatMulIntegerToFloat"] == layers
    products = Counter(node.op_type for node in before.graph.node)["MatMul"]
    assert operators["MatMul"] == products - layers
    sizes = {
        tensor.name: numpy_helper.to_array(tensor).nbytes for tensor in after.graph.initializer
    }
    in_int8 = sum(size for name, size in sizes.items() if name.endswith(".int8"))
    assert in_int8 == 2 * 48 * (3 * 48 + 48 + 96 + 96)  # and no float32 copy of them
    assert not any(
        "blocks" in name and "weight" in name and size > 4 * 48 for name, size in sizes.items()
    )


def test_text_towers_stay_exact(fresh_directory: Path) -> None:
    texts = ["a cat", "a dog on a sofa"]
    exact, rounded = (
        load(fresh_directory, engine=name) for name in ("onnxruntime", "onnxruntime-int8")
    )
    np.testing.assert_array_equal(exact.encode_text(texts), rounded.encode_text(texts))


def test_bundled_weights_in_4_bits_are_read(cache: Path) -> None:
    layers = find_linear_layers(onnx.load(find_model("base") / "vision.onnx"))
    assert [layer.weight.shape for layer in layers[:4]] == [
        *((768, 2304), (768, 768)),
        *((768, 3072), (3072, 768)),
    ]


def test_a_convolutional_network_is_refused() -> None:
    with pytest.raises(EngineError, match="no layers for int8; leave out --engine"):
        start_engine("onnxruntime-int8", find_model("small"), "vision")


def test_an_engine_that_rounds_too_much_is_refused(
    fresh_directory: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(fresh_directory), "--engine", "onnxruntime-int8"]) == 0
    assert "with onnxruntime-int8" in capsys.readouterr().out
    path = int8_graph(fresh_directory)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".scale"):
            noise = np.random.default_rng(0).uniform(0, 2, tensor.dims)
            array = (numpy_helper.to_array(tensor) * noise).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
    with pytest.raises(VerificationError, match=r"rounds too much .*; use --engine onnxruntime"):
        load(fresh_directory, engine="onnxruntime-int8").verify()


def linear_behind(operator: str, weight: Float32Array, path: Path) -> None:
    """Write a model directory's graph: x -> operator -> linear -> linear."""
    count = weight.shape[0]
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(operator, ["x"], ["activated"]),
                helper.make_node("MatMul", ["activated", "weight"], ["y"]),
                helper.make_node("MatMul", ["y", "unit"], ["out"]),
            ],
            "graph",
            [helper.make_tensor_value_info("x", 1, ["n", count])],
            [helper.make_tensor_value_info("out", 1, ["n", weight.shape[1]])],
            [
                numpy_helper.from_array(weight, "weight"),
                numpy_helper.from_array(np.eye(weight.shape[1], dtype=np.float32), "unit"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, path / "vision.onnx")


@given(st.sampled_from(["Gelu", "Identity", "Tanh"]), st.integers(0, 2**32 - 1), st.floats(-6, 6))
@settings(max_examples=60, deadline=None)
def test_a_layer_errs_by_less_than_its_steps(
    tmp_path_factory: pytest.TempPathFactory, operator: str, seed: int, magnitude: float
) -> None:
    """The error is at most half a step of each input and weight, also where a token is tiny."""
    folder = tmp_path_factory.mktemp("layer")
    random = np.random.default_rng(seed)
    weight = random.standard_normal((24, 8)).astype(np.float32)
    weight[1::2] = 0  # the int16 sums of two products, in onnxruntime without VNNI, do not saturate
    x = (random.standard_normal((5, 24)) * 10.0**magnitude).astype(np.float32)
    x[0] = 0
    linear_behind(operator, weight, folder)
    write_int8_graph(folder, x, folder / "int8.onnx")
    [activated] = start_session(_activation(operator)).run(None, {"x": x})
    [rounded] = start_session(folder / "int8.onnx").run(None, {"x": x})
    exact = activated.astype(np.float64) @ weight
    if operator == "Gelu":
        steps = np.maximum(activated.max(axis=1) - GELU_MINIMUM, LEAST_BOUND) / 255
        levels = (activated - GELU_MINIMUM) / steps[:, None]
    else:
        steps = np.abs(activated).max(axis=1) / 127
        levels = activated / np.maximum(steps, 1e-30)[:, None]
    weight_steps = np.abs(weight).max(axis=0) / 127
    of_inputs = 0.5 * steps[:, None] * np.abs(weight).sum(axis=0)
    of_weights = (
        0.5 * weight_steps * (steps[:, None] * (np.abs(levels) + 1)).sum(axis=1, keepdims=True)
    )
    bound = 1.01 * (of_inputs + of_weights) + 1e-4 * (1 + np.abs(exact))
    assert (np.abs(rounded - exact) <= bound).all()


def _activation(operator: str) -> bytes:
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", 1, ["n", 24])],
        [helper.make_tensor_value_info("y", 1, ["n", 24])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def test_factors_balance_large_channels() -> None:
    weight = np.ones((4, 3), np.float32)
    factors = smoothing_factors(np.array([1, 1, 1, 100], np.float32), [weight])
    assert factors[3] == pytest.approx(factors[0] * 100**0.75, rel=1e-3)
    assert np.log(factors).mean() == pytest.approx(0, abs=1e-5)
    unseen = smoothing_factors(np.array([1, 1, 1, 0], np.float32), [weight])
    assert unseen[3] > 0.1 * unseen[0]  # a channel that few pictures use may be used by others
