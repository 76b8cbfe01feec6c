"""The layers of transformer towers as nodes of an ONNX graph. No torch.

Each function corresponds to a class of `layers.py`, appends its nodes to a `Graph`, and returns its
output. `prefix` is the name of the layer in the weights. Shapes are as there: [B, L, width] for
sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from twotower.model.config import (
    Activation,
    SentenceEncoderConfig,
    TextTransformerConfig,
    ViTConfig,
)
from twotower.model.graph import Graph, Value

Transformer: TypeAlias = ViTConfig | TextTransformerConfig | SentenceEncoderConfig


def blocks(
    graph: Graph,
    x: Value,
    tower: str,
    config: Transformer,
    depths: range,
    mask: Value | None = None,
) -> Value:
    """Apply residual blocks: [B, L, width] -> [B, L, width].

    Args:
        tower: the prefix of its weights.
        depths: the numbers of the blocks.
        mask: added to the attention logits; broadcastable to [B, heads, L, L].
    """
    block = post_norm_block if isinstance(config, SentenceEncoderConfig) else pre_norm_block
    for depth in depths:
        x = block(graph, x, f"{tower}.blocks.{depth}", config, mask)
    return x


def pre_norm_block(
    graph: Graph, x: Value, prefix: str, config: Transformer, mask: Value | None
) -> Value:
    """Apply the residual block of CLIP and SigLIP."""
    normed = layer_norm(graph, x, f"{prefix}.ln_1", config.width, config.eps)
    x = graph.add("Add", x, attention(graph, normed, f"{prefix}.attn", config, mask))
    normed = layer_norm(graph, x, f"{prefix}.ln_2", config.width, config.eps)
    return graph.add("Add", x, mlp(graph, normed, f"{prefix}.mlp", config))


def post_norm_block(
    graph: Graph, x: Value, prefix: str, config: Transformer, mask: Value | None
) -> Value:
    """Apply the residual block of BERT."""
    x = graph.add("Add", x, attention(graph, x, f"{prefix}.attn", config, mask))
    x = layer_norm(graph, x, f"{prefix}.ln_1", config.width, config.eps)
    x = graph.add("Add", x, mlp(graph, x, f"{prefix}.mlp", config))
    return layer_norm(graph, x, f"{prefix}.ln_2", config.width, config.eps)


def attention(
    graph: Graph, x: Value, prefix: str, config: Transformer, mask: Value | None
) -> Value:
    """Attend within sequences: [B, L, width] -> [B, L, width]."""
    width = config.width
    q, k, v = graph.split(linear(graph, x, f"{prefix}.qkv", width, 3 * width), 3)
    x = attend(graph, (q, k, v), width, config.heads, mask)
    return linear(graph, x, f"{prefix}.out", width, width)


def attend(
    graph: Graph, qkv: tuple[Value, Value, Value], width: int, heads: int, mask: Value | None = None
) -> Value:
    """Attend from queries [B, L, width] to keys and values [B, M, width] -> [B, L, width]."""
    by_head = graph.integers([0, 0, heads, width // heads])
    q, k, v = (graph.add("Reshape", x, by_head) for x in qkv)
    q, v = (graph.add("Transpose", x, perm=[0, 2, 1, 3]) for x in (q, v))
    k = graph.add("Transpose", k, perm=[0, 2, 3, 1])  # [B, heads, width / heads, M]
    q = graph.add("Mul", q, graph.floats((width // heads) ** -0.5))
    logits = graph.add("MatMul", q, k)
    logits = graph.add("Add", logits, mask) if mask else logits
    x = graph.add("MatMul", graph.add("Softmax", logits, axis=-1), v)
    x = graph.add("Transpose", x, perm=[0, 2, 1, 3])
    return graph.add("Reshape", x, graph.integers([0, 0, width]))


def attention_pool(graph: Graph, x: Value, prefix: str, config: ViTConfig) -> Value:
    """Pool by a learned query, with a residual MLP: [B, L, width] -> [B, width]."""
    width = config.width
    weights = graph.split(graph.weight(f"{prefix}.qkv.weight", 3 * width, width), 3, axis=0)
    biases = graph.split(graph.weight(f"{prefix}.qkv.bias", 3 * width), 3, axis=0)
    probe = graph.weight(f"{prefix}.probe", 1, 1, width)
    q, k, v = (
        graph.add("Add", multiply(graph, source, weight), bias)
        for source, weight, bias in zip((probe, x, x), weights, biases, strict=True)
    )
    pooled = attend(graph, (q, k, v), width, config.heads)  # [B, 1, width]
    pooled = linear(graph, pooled, f"{prefix}.out", width, width)
    normed = layer_norm(graph, pooled, f"{prefix}.ln", width, config.eps)
    pooled = graph.add("Add", pooled, mlp(graph, normed, f"{prefix}.mlp", config))
    return graph.add("Squeeze", pooled, graph.integers([1]))


def mlp(graph: Graph, x: Value, prefix: str, config: Transformer) -> Value:
    """Apply two linear layers with the activation between them: [..., width] -> [..., width]."""
    x = linear(graph, x, f"{prefix}.fc1", config.width, config.mlp_width)
    x = ACTIVATIONS[config.activation](graph, x)
    return linear(graph, x, f"{prefix}.fc2", config.mlp_width, config.width)


def quick_gelu(graph: Graph, x: Value) -> Value:
    """Compute x * sigmoid(1.702 x), in the form that engines fuse."""
    return graph.add("Mul", x, graph.add("Sigmoid", graph.add("Mul", x, graph.floats(1.702))))


ACTIVATIONS: dict[Activation, Callable[[Graph, Value], Value]] = {
    "quick_gelu": quick_gelu,
    "gelu": lambda graph, x: graph.add("Gelu", x),
    "gelu_tanh": lambda graph, x: graph.add("Gelu", x, approximate="tanh"),
    "relu": lambda graph, x: graph.add("Relu", x),
}


def linear(
    graph: Graph, x: Value, prefix: str, inputs: int, outputs: int, bias: bool = True
) -> Value:
    """Apply a linear layer: [..., inputs] -> [..., outputs]."""
    x = multiply(graph, x, graph.weight(f"{prefix}.weight", outputs, inputs))
    return graph.add("Add", x, graph.weight(f"{prefix}.bias", outputs)) if bias else x


def multiply(graph: Graph, x: Value, weight: Value) -> Value:
    """Multiply x [..., inputs] by the transpose of a weight [outputs, inputs]."""
    return graph.add("MatMul", x, graph.add("Transpose", weight, perm=[1, 0]))


def layer_norm(graph: Graph, x: Value, prefix: str, width: int, eps: float) -> Value:
    """Normalise [..., width] -> [..., width]."""
    weight, bias = graph.weight(f"{prefix}.weight", width), graph.weight(f"{prefix}.bias", width)
    return graph.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)


def prepend(graph: Graph, vector: Value, x: Value, width: int) -> Value:
    """Put a vector [width] before each sequence: [B, L, width] -> [B, 1 + L, width]."""
    batch = graph.add("Shape", x, start=0, end=1)
    shape = graph.add("Concat", batch, graph.integers([1, width]), axis=0)
    return graph.add("Concat", graph.add("Expand", vector, shape), x, axis=1)


def without_class_token(graph: Graph, x: Value) -> Value:
    """Drop the first vector: [B, 1 + patches, width] -> [B, patches, width]."""
    return graph.add("Slice", x, *(graph.integers([n]) for n in (1, 2**31 - 1, 1)))


def flatten_map(graph: Graph, x: Value, width: int) -> Value:
    """Turn a feature map into a sequence: [B, width, grid, grid] -> [B, grid * grid, width]."""
    x = graph.add("Reshape", x, graph.integers([0, width, -1]))
    return graph.add("Transpose", x, perm=[0, 2, 1])
