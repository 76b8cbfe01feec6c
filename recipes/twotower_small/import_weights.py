"""Import single towers: EfficientNet-Lite, BERT, and CLIP from an int8 ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twotower.model.config import CLIPConfig
from twotower.model.foreign.rename import Table, foreign_names
from twotower.model.foreign.transformers import CLIP_TABLE
from twotower.model.weight_files import expected_shapes

# The names of lukemelas' EfficientNet-PyTorch, on which the Lite checkpoints are built.
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


def efficientnet_tensors(config: CLIPConfig, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the image tower of an EfficientNet checkpoint, without classifier, by our names."""
    skipped = ("vision.norm.", "vision.hidden.", "vision.proj.")
    return _tower(config, "vision.", EFFICIENTNET_TABLE, source, skipped)


def bert_tensors(config: CLIPConfig, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the text tower of a BERT checkpoint, by our names.

    The embedding of token type 0, equal at every position, is added to `pos_embed`.
    """
    tensors = _tower(config, "text.", BERT_TABLE, source, ("text.hidden.", "text.proj."))
    tensors["text.pos_embed"] = (
        tensors["text.pos_embed"] + source["embeddings.token_type_embeddings.weight"][0]
    )
    return tensors


def quantized_clip_tensors(config: CLIPConfig, path: Path) -> dict[str, Tensor]:
    """Return the image tower of a CLIP ONNX graph with int8 weights, as float32 by our names.

    onnxruntime's dynamic quantisation keeps the names of transformers' modules in its nodes: each
    `MatMulInteger` is a Linear, with a zero point and a scale for every output.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    arrays = {
        initializer.name: numpy_helper.to_array(initializer) for initializer in graph.initializer
    }
    source = {
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
            source[f"{module}.weight"] = torch.from_numpy(weight.T.copy())
    return _tower(config, "vision.", CLIP_TABLE, source)


def _tower(
    config: CLIPConfig,
    prefix: str,
    table: Table,
    source: Mapping[str, Tensor],
    skipped: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Return the tensors of one tower, except for the skipped ones, which are trained here."""
    return {
        name: torch.cat([source[initializer] for initializer in names]).reshape(shape)
        if shape
        else source[names[0]]
        for name, shape in expected_shapes(config).items()
        if name.startswith(prefix) and not name.startswith(skipped)
        for names in [foreign_names(name, table)[0]]
    }
