"""Single towers from elsewhere: EfficientNet-Lite, BERT's family, CLIP's in an int8 ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twotower.model.config import CLIPConfig
from twotower.model.foreign.rename import Table, foreign_names
from twotower.model.foreign.transformers import CLIP_TABLE
from twotower.model.weights import expected_shapes

# As lukemelas' EfficientNet-PyTorch calls them, on which the Lite checkpoints are built.
EFFICIENTNET_TABLE = (
    (r"^vision\.stem\.conv\.", "_conv_stem."),
    (r"^vision\.stem\.bn\.", "_bn0."),
    (r"^vision\.head\.conv\.", "_conv_head."),
    (r"^vision\.head\.bn\.", "_bn1."),
    (r"^vision\.blocks\.", "_blocks."),
    (r"\.expand\.conv\.", "._expand_conv."),
    (r"\.expand\.bn\.", "._bn0."),
    (r"\.depthwise\.conv\.", "._depthwise_conv."),
    (r"\.depthwise\.bn\.", "._bn1."),
    (r"\.reduce\.conv\.", "._project_conv."),
    (r"\.reduce\.bn\.", "._bn2."),
)
BERT_TABLE = (
    (r"^text\.token_embed\.", "embeddings.word_embeddings."),
    (r"^text\.pos_embed", "embeddings.position_embeddings.weight"),
    (r"^text\.ln_embed\.", "embeddings.LayerNorm."),
    (r"^text\.blocks\.", "encoder.layer."),
    (r"\.attn\.qkv\.", ".attention.self.{query,key,value}."),
    (r"\.attn\.out\.", ".attention.output.dense."),
    (r"\.ln_1\.", ".attention.output.LayerNorm."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.ln_2\.", ".output.LayerNorm."),
)


def efficientnet_tensors(config: CLIPConfig, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of an EfficientNet checkpoint, without its classifier, by our names."""
    without = ("vision.norm.", "vision.hidden.", "vision.proj.")
    return _tower(config, "vision.", EFFICIENTNET_TABLE, theirs, without)


def bert_tensors(config: CLIPConfig, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower of a BERT-family checkpoint, by our names.

    The embedding of token type 0, the same at every position, becomes part of `pos_embed`.
    """
    tensors = _tower(config, "text.", BERT_TABLE, theirs, ("text.hidden.", "text.proj."))
    tensors["text.pos_embed"] = (
        tensors["text.pos_embed"] + theirs["embeddings.token_type_embeddings.weight"][0]
    )
    return tensors


def quantized_clip_tensors(config: CLIPConfig, path: Path) -> dict[str, Tensor]:
    """The image tower of a CLIP whose ONNX graph has int8 weights, in float32, by our names.

    onnxruntime's dynamic quantisation keeps the names of transformers' modules in its nodes: each
    `MatMulInteger` stands for a Linear, with a zero point and a scale for every output.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    theirs = {
        name: torch.from_numpy(np.array(array))
        for name, array in arrays.items()
        if name.startswith("vision_model.")
    }
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            stem = node.input[1].removesuffix("_quantized")
            integers = arrays[node.input[1]].astype(np.float32)  # [in, out]
            weight = (integers - arrays[node.input[3]]) * arrays[f"{stem}_scale"]
            module = node.name.removesuffix("/MatMul_quant").strip("/").replace("/", ".")
            theirs[f"{module}.weight"] = torch.from_numpy(weight.T.copy())
    return _tower(config, "vision.", CLIP_TABLE, theirs)


def _tower(
    config: CLIPConfig,
    prefix: str,
    table: Table,
    theirs: Mapping[str, Tensor],
    without: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """All tensors of one tower, but for those that are ours to train."""
    return {
        name: torch.cat([theirs[one] for one in names]).reshape(shape)
        if shape
        else theirs[names[0]]
        for name, shape in expected_shapes(config).items()
        if name.startswith(prefix) and not name.startswith(without)
        for names in [foreign_names(name, table)[0]]
    }
