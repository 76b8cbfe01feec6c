"""An ONNX graph under construction: its nodes, constants, and the weights that it reads. No torch.

It is built by the functions of `graphs.py`. The weights are names and shapes alone, so that a graph
also says which tensors its architecture has.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Value: TypeAlias = str  # the name of a tensor in a graph
Shape: TypeAlias = tuple[int, ...]


class Node(NamedTuple):
    """An operator of ONNX with its inputs, outputs and attributes."""

    operator: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: dict[str, Any]


class Graph:
    """The nodes of a graph, in the order of computation.

    Attributes:
        nodes: the operators.
        constants: the arrays that are part of the graph, by name.
        weights: the shapes of the weights, by their names in `model.safetensors`.
        counters: the names of integers that are stored with the weights and not read.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[Value, NDArray[Any]] = {}
        self.weights: dict[Value, Shape] = {}
        self.counters: list[str] = []

    def add(self, operator: str, *inputs: Value, **attributes: Any) -> Value:
        """Append an operator with one output, and return that output."""
        return self._append(operator, inputs, 1, attributes)[0]

    def split(self, x: Value, count: int, axis: int = -1) -> tuple[Value, ...]:
        """Split a tensor into equal parts along an axis."""
        return self._append("Split", (x,), count, {"axis": axis, "num_outputs": count})

    def weight(self, name: str, *shape: int) -> Value:
        """Declare a weight and return it."""
        self.weights[name] = shape
        return name

    def floats(self, value: Any) -> Value:
        """Return a constant of type float32."""
        return self._constant(np.array(value, np.float32))

    def integers(self, value: Any) -> Value:
        """Return a constant of type int64, such as a shape."""
        return self._constant(np.array(value, np.int64))

    def _append(
        self, operator: str, inputs: tuple[Value, ...], outputs: int, attributes: dict[str, Any]
    ) -> tuple[Value, ...]:
        start = sum(len(node.outputs) for node in self.nodes)
        names = tuple(f"value_{start + position}" for position in range(outputs))
        self.nodes.append(Node(operator, inputs, names, attributes))
        return names

    def _constant(self, value: NDArray[Any]) -> Value:
        """Return a constant; equal ones are stored once."""
        key = f"{value.dtype}_{value.tolist()}"
        self.constants[key] = value
        return key
