"""The towers as ONNX graphs, written for a configuration. No torch.

Each function corresponds to a part of `vision.py`, `convnets.py` or `text.py`, appends its nodes to
a `Graph`, and returns its output. Shapes are as there: [B, L, width] for sequences,
[B, channels, S, S] for feature maps. The layers are in `graph_layers.py`.
"""

from __future__ import annotations

from dataclasses import fields

from twotower.model.config import (
    CLIPConfig,
    ResNetConfig,
    SentenceEncoderConfig,
    TextConfig,
    TextTransformerConfig,
    VisionConfig,
    ViTConfig,
)
from twotower.model.graph import Graph, Shape, Value
from twotower.model.graph_layers import (
    attend,
    attention_pool,
    blocks,
    flatten_map,
    layer_norm,
    linear,
    prepend,
    without_class_token,
)

FLOAT, INT32 = 1, 6  # onnx.TensorProto
LOWEST = -3.4028234663852886e38  # of float32

# The settings that the graphs of a tower follow. A tower with other values than the default in any
# other setting has no graph here, so that a new setting cannot be ignored silently.
FOLLOWED: dict[type, str] = {
    ViTConfig: "image_size patch_size width layers heads mlp_width activation pool eps kind",
    ResNetConfig: "image_size width layers kind",
    TextTransformerConfig: (
        "context_length vocab_size width layers heads mlp_width activation eos_id eps kind"
    ),
    SentenceEncoderConfig: (
        "context_length vocab_size width layers heads mlp_width pad_id activation eps hidden_width "
        "lexicon_size lexicon_rank kind"
    ),
}
FOLLOWED_POOLS = ("class", "map")


def has_graph(tower: VisionConfig | TextConfig) -> bool:
    """Return True if this file has the graphs of a tower."""
    followed = FOLLOWED.get(type(tower), "").split()
    ignored = [item for item in fields(tower) if item.name not in followed]
    if not followed or getattr(tower, "pool", "class") not in FOLLOWED_POOLS:
        return False
    return all(getattr(tower, item.name) == item.default for item in ignored)


def has_graphs(config: CLIPConfig) -> bool:
    """Return True if this file has the graphs of both towers."""
    return has_graph(config.vision) and has_graph(config.text)


def weight_shapes(config: CLIPConfig) -> dict[str, Shape]:
    """Return name and shape of every tensor of a model whose towers have graphs."""
    shapes: dict[str, Shape] = {}
    for graph in (vision_graph(config)[0], text_graph(config)[0]):
        shapes |= graph.weights | dict.fromkeys(graph.counters, ())
    return shapes | {"logit_scale": ()} | ({"logit_bias": ()} if config.logit_bias else {})


# --- image towers --------------------------------------------------------------------------------


def vision_graph(config: CLIPConfig) -> tuple[Graph, Value]:
    """Encode pixel_values [B, 3, image_size, image_size] -> image_features [B, embed_dim]."""
    graph, vision = Graph(), config.vision
    if isinstance(vision, ResNetConfig):
        x = resnet_stages(graph, vision)
        return graph, grid_attention_pool(graph, x, vision, config.embed_dim)
    assert isinstance(vision, ViTConfig)  # by `has_graph`
    x = vit_tokens(graph, vision)
    if vision.pool == "map":
        x = layer_norm(graph, x, "vision.ln_post", vision.width, vision.eps)
        return graph, attention_pool(graph, x, "vision.pool", vision)
    x = graph.add("Gather", x, graph.integers(0), axis=1)  # the class token
    return graph, vit_projection(graph, x, vision, config.embed_dim)


def patches_graph(config: CLIPConfig) -> tuple[Graph, Value]:
    """Encode without pooling: [B, 3, image_size, image_size] -> [B, patches, width]."""
    graph, vision = Graph(), config.vision
    if isinstance(vision, ResNetConfig):
        return graph, flatten_map(graph, resnet_stages(graph, vision), 32 * vision.width)
    assert isinstance(vision, ViTConfig)  # by `has_graph`
    x = vit_tokens(graph, vision)
    if vision.pool == "class":
        x = without_class_token(graph, x)
    return graph, layer_norm(graph, x, "vision.ln_post", vision.width, vision.eps)


def patch_features_graph(config: CLIPConfig) -> tuple[Graph, Value]:
    """Encode each patch: [B, 3, image_size, image_size] -> [B, patches, embed_dim].

    As `VisionTransformer.patch_features`.
    """
    graph, vision = Graph(), config.vision
    assert isinstance(vision, ViTConfig) and vision.pool == "class"
    depth = vision.layers - 1  # of the last block
    x = vit_embed(graph, vision)
    x = blocks(graph, x, "vision", vision, range(depth))
    x = layer_norm(graph, x, f"vision.blocks.{depth}.ln_1", vision.width, vision.eps)
    name, width = f"vision.blocks.{depth}.attn", vision.width
    q, _, v = graph.split(linear(graph, x, f"{name}.qkv", width, 3 * width), 3)
    x = attend(graph, (q, q, v), width, vision.heads)
    x = without_class_token(graph, linear(graph, x, f"{name}.out", width, width))
    return graph, vit_projection(graph, x, vision, config.embed_dim)


def vit_tokens(graph: Graph, vision: ViTConfig) -> Value:
    """Apply all blocks: pixel_values -> [B, (class +) patches, width]."""
    return blocks(graph, vit_embed(graph, vision), "vision", vision, range(vision.layers))


def vit_embed(graph: Graph, vision: ViTConfig) -> Value:
    """Embed patches: pixel_values -> [B, (class +) patches, width]."""
    width, side, class_token = vision.width, vision.patch_size, vision.pool == "class"
    inputs = [graph.weight("vision.patch_embed.weight", width, 3, side, side)]
    if not class_token:
        inputs.append(graph.weight("vision.patch_embed.bias", width))
    x = graph.add("Conv", "pixel_values", *inputs, kernel_shape=[side] * 2, strides=[side] * 2)
    x = flatten_map(graph, x, width)
    if class_token:
        x = prepend(graph, graph.weight("vision.class_embed", width), x, width)
    positions = (vision.image_size // side) ** 2 + class_token
    x = graph.add("Add", x, graph.weight("vision.pos_embed", positions, width))
    return layer_norm(graph, x, "vision.ln_pre", width, vision.eps) if class_token else x


def vit_projection(graph: Graph, x: Value, vision: ViTConfig, embed_dim: int) -> Value:
    """Normalise and project vectors: [..., width] -> [..., embed_dim]."""
    x = layer_norm(graph, x, "vision.ln_post", vision.width, vision.eps)
    return linear(graph, x, "vision.proj", vision.width, embed_dim, bias=False)


def resnet_stages(graph: Graph, vision: ResNetConfig) -> Value:
    """Apply stem and stages: pixel_values -> [B, 32 * width, image_size / 32, image_size / 32]."""
    width = vision.width
    stem = ((3, width // 2, 2), (width // 2, width // 2, 1), (width // 2, width, 1))
    x = "pixel_values"
    for layer, (inputs, outputs, stride) in enumerate(stem, start=1):
        names = f"vision.stem.conv{layer}", f"vision.stem.bn{layer}"
        x = graph.add("Relu", conv_bn(graph, x, names, (inputs, outputs, 3), stride))
    x, channels = average_pool(graph, x), width
    for stage, depth in enumerate(vision.layers):
        for block in range(depth):
            halve = stage > 0 and block == 0
            name, narrow = f"vision.stages.layer{stage + 1}.{block}", width * 2**stage
            x = bottleneck(graph, x, name, (channels, narrow), halve)
            channels = 4 * narrow
    return x


def bottleneck(
    graph: Graph, x: Value, prefix: str, channels: tuple[int, int], halve: bool
) -> Value:
    """Apply a block of ModifiedResNet.

    Args:
        channels: of its input and of its inner convolutions.
        halve: make the feature map half as wide and high.
    """
    inputs, narrow = channels
    names = [(f"{prefix}.conv{i}", f"{prefix}.bn{i}") for i in (1, 2, 3)]
    out = graph.add("Relu", conv_bn(graph, x, names[0], (inputs, narrow, 1)))
    out = graph.add("Relu", conv_bn(graph, out, names[1], (narrow, narrow, 3)))
    out = average_pool(graph, out) if halve else out
    out = conv_bn(graph, out, names[2], (narrow, 4 * narrow, 1))
    if halve or inputs != 4 * narrow:
        x = average_pool(graph, x) if halve else x
        names = [(f"{prefix}.downsample.conv", f"{prefix}.downsample.bn")]
        x = conv_bn(graph, x, names[0], (inputs, 4 * narrow, 1))
    return graph.add("Relu", graph.add("Add", out, x))


def conv_bn(
    graph: Graph, x: Value, layers: tuple[str, str], shape: tuple[int, int, int], stride: int = 1
) -> Value:
    """Apply a convolution without bias, padded to keep the size, and a batch norm.

    Args:
        layers: the names of convolution and norm.
        shape: input channels, output channels, kernel size.
    """
    (conv, norm), (inputs, outputs, kernel) = layers, shape
    weight = graph.weight(f"{conv}.weight", outputs, inputs, kernel, kernel)
    sizes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2}
    x = graph.add("Conv", x, weight, **sizes)
    names = ("weight", "bias", "running_mean", "running_var")
    statistics = [graph.weight(f"{norm}.{name}", outputs) for name in names]
    graph.counters.append(f"{norm}.num_batches_tracked")
    return graph.add("BatchNormalization", x, *statistics, epsilon=1e-5)


def average_pool(graph: Graph, x: Value) -> Value:
    """Average squares of 2 x 2: [B, channels, S, S] -> [B, channels, S / 2, S / 2]."""
    return graph.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])


def grid_attention_pool(graph: Graph, x: Value, vision: ResNetConfig, embed_dim: int) -> Value:
    """Pool and project a feature map: [B, width, grid, grid] -> [B, embed_dim]."""
    prefix, width = "vision.attnpool", 32 * vision.width
    x = flatten_map(graph, x, width)
    mean = graph.add("ReduceMean", x, graph.integers([1]), keepdims=1)
    x = graph.add("Concat", mean, x, axis=1)
    positions = (vision.image_size // 32) ** 2 + 1
    x = graph.add("Add", x, graph.weight(f"{prefix}.pos_embed", positions, width))
    mean = graph.add("Slice", x, *(graph.integers([n]) for n in (0, 1, 1)))
    q = linear(graph, mean, f"{prefix}.q", width, width)
    k, v = (linear(graph, x, f"{prefix}.{name}", width, width) for name in "kv")
    pooled = attend(graph, (q, k, v), width, width // 64)
    pooled = linear(graph, pooled, f"{prefix}.out", width, embed_dim)
    return graph.add("Squeeze", pooled, graph.integers([1]))


# --- text towers ---------------------------------------------------------------------------------


def text_graph(config: CLIPConfig) -> tuple[Graph, Value]:
    """Encode input_ids [B, L] -> text_features [B, embed_dim]."""
    text = config.text
    graph, x = tokens_graph(config)
    if isinstance(text, SentenceEncoderConfig):
        return graph, sentence_features(graph, x, text, config.embed_dim)
    assert isinstance(text, TextTransformerConfig)  # by `has_graph`
    if text.eos_id is None:
        x = graph.add("Gather", x, graph.integers(-1), axis=1)
    else:
        x = first_end_of_text(graph, x, text.eos_id)
    return graph, linear(graph, x, "text.proj", text.width, config.embed_dim, not text.causal)


def tokens_graph(config: CLIPConfig) -> tuple[Graph, Value]:
    """Encode input_ids without pooling: [B, L] -> [B, L, width]."""
    graph, text = Graph(), config.text
    if isinstance(text, SentenceEncoderConfig):
        return graph, sentence_tokens(graph, text)
    assert isinstance(text, TextTransformerConfig)  # by `has_graph`
    x = embed_tokens(graph, "input_ids", text)
    x = blocks(graph, x, "text", text, range(text.layers), causal_mask(graph, text))
    return graph, layer_norm(graph, x, "text.ln_final", text.width, text.eps)


def embed_tokens(
    graph: Graph, input_ids: Value, text: TextTransformerConfig | SentenceEncoderConfig
) -> Value:
    """Look tokens up and add their positions: [B, L] -> [B, L, width]."""
    table = graph.weight("text.token_embed.weight", text.vocab_size, text.width)
    positions = graph.weight("text.pos_embed", text.context_length, text.width)
    length = graph.add("Shape", input_ids, start=1, end=2)
    start = graph.integers([0])
    positions = graph.add("Slice", positions, start, length, start)
    return graph.add("Add", graph.add("Gather", table, input_ids), positions)


def causal_mask(graph: Graph, text: TextTransformerConfig) -> Value | None:
    """Return [L, L] with -inf above the diagonal and 0 elsewhere; None if not causal."""
    if not text.causal:
        return None
    length = graph.add("Shape", "input_ids", start=1, end=2)
    square = graph.add("Concat", length, length, axis=0)
    full = graph.add("Expand", graph.floats(float("-inf")), square)
    return graph.add("Trilu", full, graph.integers(1), upper=1)


def first_end_of_text(graph: Graph, x: Value, eos_id: int) -> Value:
    """Select the position of the first `eos_id`: [B, L, width] -> [B, width]."""
    is_end = graph.add("Equal", "input_ids", graph.integers(eos_id))
    is_end = graph.add("Cast", is_end, to=INT32)
    position = graph.add("ArgMax", is_end, axis=1, keepdims=1)  # of the first maximum
    return graph.add("GatherND", x, position, batch_dims=1)


def sentence_tokens(graph: Graph, text: SentenceEncoderConfig) -> Value:
    """Encode input_ids without pooling: [B, L] -> [B, L, width]."""
    input_ids = without_names(graph, text)
    x = embed_tokens(graph, input_ids, text)
    x = layer_norm(graph, x, "text.ln_embed", text.width, text.eps)
    padding = graph.add("Equal", input_ids, graph.integers(text.pad_id))
    mask = graph.add("Where", padding, graph.floats(LOWEST), graph.floats(0))
    mask = graph.add("Unsqueeze", mask, graph.integers([1, 2]))  # [B, 1, 1, L]
    return blocks(graph, x, "text", text, range(text.layers), mask)


def without_names(graph: Graph, text: SentenceEncoderConfig) -> Value:
    """Replace names of the lexicon in input_ids by padding."""
    if not text.lexicon_size:
        return "input_ids"
    is_token = graph.add("Less", "input_ids", graph.integers(text.vocab_size))
    return graph.add("Where", is_token, "input_ids", graph.integers(text.pad_id))


def sentence_features(graph: Graph, x: Value, text: SentenceEncoderConfig, embed_dim: int) -> Value:
    """Pool and project tokens: [B, L, width] -> [B, embed_dim]."""
    padding = graph.add("Equal", without_names(graph, text), graph.integers(text.pad_id))
    pooled = masked_mean(graph, x, graph.add("Not", padding))
    width = text.width + text.hidden_width
    if text.hidden_width:
        hidden = linear(graph, pooled, "text.hidden", text.width, text.hidden_width)
        pooled = graph.add("Concat", pooled, graph.add("Gelu", hidden), axis=1)
    features = linear(graph, pooled, "text.proj", width, embed_dim, bias=False)
    if not text.lexicon_size:
        return features
    meaning = lexicon_features(graph, text, embed_dim)
    norm = graph.add("ReduceL2", features, graph.integers([1]), keepdims=1)
    return graph.add("Add", features, graph.add("Mul", norm, meaning))


def lexicon_features(graph: Graph, text: SentenceEncoderConfig, embed_dim: int) -> Value:
    """Average the vectors of the names in input_ids, and project them: [B, L] -> [B, embed_dim]."""
    rank = text.lexicon_rank
    table = graph.weight("text.lexicon.embed.weight", 1 + text.lexicon_size, rank)
    zero = graph.integers(0)
    names = graph.add("Sub", "input_ids", graph.integers(text.vocab_size - 1))
    names = graph.add("Max", names, zero)  # 0 for a token
    vectors = graph.add("Gather", table, names)
    mean = masked_mean(graph, vectors, graph.add("Greater", names, zero))
    return linear(graph, mean, "text.lexicon.proj", rank, embed_dim, bias=False)


def masked_mean(graph: Graph, x: Value, mask: Value) -> Value:
    """Average rows of x [B, L, width] where mask [B, L] is true -> [B, width]; 0 for none."""
    axis = graph.integers([1])
    weight = graph.add("Cast", mask, to=FLOAT)
    weight = graph.add("Unsqueeze", weight, graph.integers([2]))  # [B, L, 1]
    total = graph.add("ReduceSum", graph.add("Mul", x, weight), axis, keepdims=0)
    count = graph.add("Max", graph.add("ReduceSum", weight, axis, keepdims=0), graph.floats(1))
    return graph.add("Div", total, count)
