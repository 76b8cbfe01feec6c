"""The image tower in int8: a graph for faster arithmetic, made from the float32 graph. No torch.

Each linear layer multiplies int8 weights, with a scale for each output channel, by its input in
8 bits, with a scale for each token, and adds in int32. So a picture's vector does not depend on the
other pictures of its batch. Two measures keep the rounding small:

- Channels that a layer norm makes large would coarsen all others of their token. Its weight and
  bias are divided by a factor for each channel, which the linear layers multiply by again
  (SmoothQuant, Xiao et al. 2023). The factors come from the golden pictures of the model.
- Behind a GELU nearly all values are positive, so the 8 bits start at its minimum instead of the
  negative of the maximum.

The last linear layer, the projection, stays in float32, and so do attention and norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array
from twotower.encode.golden import golden_hash, read_golden
from twotower.encode.onnx import CONTRIB
from twotower.encode.sessions import graph_path, start_session
from twotower.errors import EngineError
from twotower.files import atomic_write, cache_folder
from twotower.inputs.preprocess import Preprocess
from twotower.model.config import VisionConfig, read_config
from twotower.model.weight_files import expand_groups, unpack_levels

if TYPE_CHECKING:  # importing this file is cheap
    import onnx

MAX_BYTES = 2**31 - 2**20  # of a graph in memory, a limit of protocol buffers
GRAPH_VERSION = 1  # part of the names of graph files
LEVELS = 127  # of int8 on either side of 0
SMOOTHING = 0.75  # exponent of the activations in the factors; 0.5 in the paper, and worse here
GELU_MINIMUM = -0.1701  # of gelu; of gelu_tanh -0.1700, of quick_gelu -0.1636
# Least value of a token's maximum behind a GELU. In a token of small values all levels would
# otherwise be high, and without VNNI onnxruntime adds two products in int16, which then saturates.
LEAST_BOUND = 1.0
# Tokens computed in one call. Products in int8 are so fast that activations which do not fit into a
# processor's cache take longer: base in calls of 4 pictures is 1.2 times as fast as in calls of 16.
TOKENS_AT_ONCE = 800
TINY = 1e-12  # least scale of other tokens, which may be all zeros


def int8_graph(directory: Path) -> Path:
    """Return the int8 graph of a model directory in the cache; write it if it is not there.

    Raises:
        EngineError: as `write_int8_graph`, or the cache cannot be written.
        PathError: the folder of the cache is unknown.
    """
    path = cache_folder() / "int8" / f"{golden_hash(directory)}-{GRAPH_VERSION}.onnx"
    if not path.exists():
        preprocess = Preprocess(read_config(directory).preprocess)
        pictures = read_golden(directory).pictures
        pixel_values = np.stack([preprocess(picture) for picture in pictures])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_int8_graph(directory, pixel_values, path)
        except OSError as error:
            reason = f"cannot be written ({error.strerror or error})"
            raise EngineError(path, reason, "set TWOTOWER_CACHE to another folder") from None
    return path


def rows_at_once(vision: VisionConfig) -> int:
    """Return the number of pictures to compute at once."""
    patch_size = getattr(vision, "patch_size", 16)
    return max(1, TOKENS_AT_ONCE // (vision.image_size // patch_size) ** 2)


def write_int8_graph(directory: Path, pixel_values: Float32Array, path: Path) -> None:
    """Write the image tower of a model directory in int8, with its weights, to a file.

    Args:
        pixel_values: of pictures that show how large the inputs of layers become [n, 3, S, S].

    Raises:
        EngineError: the tower has no linear layers to convert, such as a convolutional network.
    """
    import onnx

    source = graph_path(directory, "vision")
    model = onnx.load(source)  # with its weights
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MAX_BYTES:
        raise EngineError(source, "is too large for int8", "leave out --engine onnxruntime-int8")
    layers = find_linear_layers(model)[:-1]
    if not layers:
        raise EngineError(source, "has no layers for int8", "leave out --engine onnxruntime-int8")
    maxima = input_maxima(model, {layer.input for layer in layers}, pixel_values)
    _Int8Writer(model, layers, maxima).rewrite()
    with atomic_write(path, "wb") as file:
        file.write(model.SerializeToString())


class LinearLayer:
    """A product of activations with a constant weight.

    Attributes:
        node: its node in the graph.
        input: the name of its activations [..., in].
        weight: float32 [in, out].
    """

    def __init__(self, node: onnx.NodeProto, weight: Float32Array) -> None:
        self.node, self.weight = node, weight
        self.input, self.output = node.input[0], node.output[0]


def find_linear_layers(model: onnx.ModelProto) -> list[LinearLayer]:
    """Return the linear layers of a graph, in the order of computation."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}

    def value(name: str) -> NDArray[Any] | None:
        """Return the value of a weight, computed from what is stored."""
        if name in constants:
            return numpy_helper.to_array(constants[name])
        node = producers.get(name)
        if node is None or node.op_type not in FOLDED:
            return None
        inputs = [value(item) for item in node.input]
        return None if any(item is None for item in inputs) else FOLDED[node.op_type](node, *inputs)

    layers = []
    for node in model.graph.node:
        weight = None
        if node.op_type == "MatMul":
            weight = value(node.input[1])
        elif node.op_type == "MatMulNBits":
            levels, scale = (value(name) for name in node.input[1:3])
            if levels is not None and scale is not None:
                weight = expand_groups(unpack_levels(levels), scale).T
        if weight is not None and weight.ndim == 2:
            layers.append(LinearLayer(node, weight.astype(np.float32)))
    return layers


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    from onnx import helper

    return next(helper.get_attribute_value(item) for item in node.attribute if item.name == name)


# Operators between stored and used weights -> their results.
FOLDED: dict[str, Callable[..., NDArray[Any]]] = {
    "Transpose": lambda node, array: array.transpose(_attribute(node, "perm")),
    "Cast": lambda node, array: array.astype(np.float32),
    "DequantizeLinear": lambda node, array, scale: (
        array * scale.reshape(-1, *[1] * (array.ndim - 1))
    ),
}


def input_maxima(
    model: onnx.ModelProto, names: Iterable[str], pixel_values: Float32Array
) -> dict[str, Float32Array]:
    """Return the largest absolute value of each channel of activations, by their names."""
    import onnx
    from onnx import helper

    names = sorted(names)
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    observed.graph.output.extend(map(helper.make_empty_tensor_value_info, names))
    session = start_session(observed.SerializeToString())
    maxima = {name: np.float32(0) for name in names}
    for picture in pixel_values:  # one by one, since all activations are kept
        values = session.run(names, {session.get_inputs()[0].name: picture[None]})
        for name, value in zip(names, values, strict=True):
            largest = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            maxima[name] = np.maximum(maxima[name], largest)
    return maxima  # type: ignore[return-value]


class _Int8Writer:
    """Replaces linear layers of a model in place."""

    def __init__(
        self, model: onnx.ModelProto, layers: list[LinearLayer], maxima: dict[str, Float32Array]
    ) -> None:
        self._model, self._graph = model, model.graph
        self._layers, self._maxima = layers, maxima
        self._producers = {name: node for node in self._graph.node for name in node.output}
        scalars = {
            "int8.one": np.float32(1),
            "int8.tiny": np.float32(TINY),
            "int8.least_bound": np.float32(LEAST_BOUND),
            "int8.shift": np.float32(-GELU_MINIMUM),
            "int8.zero": np.uint8(0),
            "int8.middle": np.uint8(LEVELS + 1),
            "int8.symmetric_step": np.float32(1 / LEVELS),
            "int8.positive_step": np.float32(1 / (2 * LEVELS + 1)),
        }
        self._constants = {name: np.asarray(value) for name, value in scalars.items()}
        self._constants["int8.last_axis"] = np.array([-1], np.int64)
        self._nodes: list[onnx.NodeProto] = []

    def rewrite(self) -> None:
        self._smooth()
        layers = {layer.output: layer for layer in self._layers}
        for node in self._graph.node:
            if layer := layers.get(node.output[0]):
                self._replace(layer)
            else:
                self._nodes.append(node)
        self._store()

    def _smooth(self) -> None:
        """Move a factor for each channel from layer norms into the linear layers behind them."""
        from onnx import numpy_helper

        stored = {tensor.name: tensor for tensor in self._graph.initializer}
        for name in dict.fromkeys(layer.input for layer in self._layers):
            norm = self._producers.get(name)
            layers = [layer for layer in self._layers if layer.input == name]
            users = sum(name in node.input for node in self._graph.node)
            if norm is None or norm.op_type != "LayerNormalization" or users > len(layers):
                continue
            if not stored.keys() >= set(norm.input[1:]):
                continue
            factors = smoothing_factors(self._maxima[name], [layer.weight for layer in layers])
            for parameter in norm.input[1:]:
                self._constants[parameter] = numpy_helper.to_array(stored[parameter]) / factors
            for layer in layers:
                layer.weight = layer.weight * factors[:, None]

    def _replace(self, layer: LinearLayer) -> None:
        """Append the nodes of a linear layer in int8."""
        name, weight = layer.output, layer.weight
        scale = np.maximum(np.abs(weight).max(axis=0) / LEVELS, TINY).astype(np.float32)
        self._constants[f"{name}.int8"] = np.rint(weight / scale).astype(np.int8)
        self._constants[f"{name}.scale"] = scale
        self._constants[f"{name}.zeros"] = np.zeros(len(scale), np.int8)
        positive = self._is_gelu_output(layer.input)
        tokens, token_scale = self._scaled_tokens(layer, positive)
        zero = "int8.zero" if positive else "int8.middle"
        levels = self._add("QuantizeLinear", tokens, "int8.one", zero, output=f"{name}.uint8")
        weights = (f"{name}.int8", "int8.one", f"{name}.scale", zero, f"{name}.zeros")
        product = self._add("MatMulIntegerToFloat", levels, *weights, output=f"{name}.product")
        if positive:
            product = self._add("Mul", product, token_scale, output=f"{name}.shifted")
            self._constants[f"{name}.shift"] = np.float32(GELU_MINIMUM) * weight.sum(axis=0)
            self._add("Add", product, f"{name}.shift", output=name)
        else:
            self._add("Mul", product, token_scale, output=name)

    def _scaled_tokens(self, layer: LinearLayer, positive: bool) -> tuple[str, str]:
        """Return tokens as multiples of their scale [..., in], and the scales [..., 1]."""
        name, tokens = layer.output, layer.input
        if positive:
            tokens = self._add("Add", tokens, "int8.shift", output=f"{name}.from_zero")
        largest = self._add("ReduceMax", tokens, "int8.last_axis", output=f"{name}.max")
        bounds = [largest, "int8.least_bound"]
        if not positive:
            least = self._add("ReduceMin", tokens, "int8.last_axis", output=f"{name}.min")
            negative = self._add("Neg", least, output=f"{name}.largest_negative")
            bounds = [largest, negative, "int8.tiny"]
        bound = self._add("Max", *bounds, output=f"{name}.bound")
        step = "int8.positive_step" if positive else "int8.symmetric_step"
        scale = self._add("Mul", bound, step, output=f"{name}.token_scale")
        return self._add("Div", tokens, scale, output=f"{name}.scaled"), scale

    def _is_gelu_output(self, name: str) -> bool:
        """Return True if a tensor is the output of a GELU, or of x * sigmoid(1.702 x)."""
        node = self._producers.get(name)
        if node is None or node.op_type != "Mul":
            return node is not None and node.op_type == "Gelu"
        before = [self._producers.get(item) for item in node.input]
        sigmoids = [item for item in before if item is not None and item.op_type == "Sigmoid"]
        return any(self._is_scaled(item.input[0]) for item in sigmoids)

    def _is_scaled(self, name: str) -> bool:
        """Return True for a product with 1.702; without it, x * sigmoid(x) has a lower minimum."""
        from onnx import numpy_helper

        node = self._producers.get(name)
        if node is None or node.op_type != "Mul":
            return False
        factors = [item for item in self._graph.initializer if item.name in node.input]
        return any(np.allclose(numpy_helper.to_array(item), 1.702) for item in factors)

    def _add(self, operator: str, *inputs: str, output: str) -> str:
        from onnx import helper

        domain = CONTRIB if operator == "MatMulIntegerToFloat" else ""
        self._nodes.append(helper.make_node(operator, inputs, [output], domain=domain))
        return output

    def _store(self) -> None:
        """Put the nodes into the model, and those constants that are still in use."""
        from onnx import numpy_helper

        kept: list[onnx.NodeProto] = []
        used: set[str] = set()
        for node in reversed(self._nodes):  # those that computed float32 weights have no user left
            if node.op_type not in FOLDED or used.intersection(node.output):
                kept.insert(0, node)
                used.update(node.input)
        stored = [
            tensor
            for tensor in self._graph.initializer
            if tensor.name in used and tensor.name not in self._constants
        ]
        changed = [
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in self._constants.items()
            if name in used
        ]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(kept)
        self._graph.initializer.extend(stored + changed)
        if all(opset.domain != CONTRIB for opset in self._model.opset_import):
            self._model.opset_import.add(domain=CONTRIB, version=1)


def smoothing_factors(maxima: Float32Array, weights: Sequence[Float32Array]) -> Float32Array:
    """Return factors [in] that divide activations and multiply weights, with a mean of 1 in logs.

    Args:
        maxima: largest absolute value of each channel of the activations [in].
        weights: of the linear layers that read them, each [in, out].
    """
    of_weights = np.maximum.reduce([np.abs(weight).max(axis=1) for weight in weights])
    factors = SMOOTHING * _bounded_log(maxima) - (1 - SMOOTHING) * _bounded_log(of_weights)
    return np.exp(factors - factors.mean()).astype(np.float32)


def _bounded_log(values: Float32Array) -> Float32Array:
    """Return logarithms; of at least a tenth of the median, since few pictures were seen."""
    return np.log(np.maximum(values, max(0.1 * float(np.median(values)), TINY)))
