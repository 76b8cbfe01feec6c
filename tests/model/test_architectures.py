"""Parameters of open_clip's architectures: docs/model_profile.csv of open_clip, in millions."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twotower.errors import ModelError
from twotower.model.config import BertConfig, CLIPConfig
from twotower.model.foreign.architectures import architecture, architecture_names
from twotower.model.foreign.open_clip import open_clip_config
from twotower.model.presets import preset
from twotower.model.weight_files import expected_shapes

PUBLISHED = {  # image tower, text tower
    "RN50": (38.32, 63.69),
    "RN101": (56.26, 63.43),
    "RN50x4": (87.14, 91.16),
    "RN50x16": (167.33, 123.65),
    "RN50x64": (420.38, 202.88),
    "ViT-B-32": (87.85, 63.43),
    "ViT-B-32-256": (87.86, 63.43),
    "ViT-B-16": (86.19, 63.43),
    "ViT-B-16-plus-240": (117.21, 91.16),
    "ViT-L-14": (303.97, 123.65),
    "ViT-L-14-336": (304.29, 123.65),
    "ViT-H-14": (632.08, 354.03),
    "ViT-g-14": (1012.65, 354.03),
    "ViT-bigG-14": (1844.91, 694.66),
    "convnext_base": (88.09, 63.43),
    "convnext_base_w": (88.22, 91.16),
    "convnext_base_w_320": (88.22, 91.16),
    "convnext_large_d": (199.77, 152.0),
    "convnext_large_d_320": (199.77, 152.0),
    "convnext_xxlarge": (846.54, 354.03),
    "coca_ViT-B-32": (89.16, 63.43),
    "coca_ViT-L-14": (306.72, 123.65),
}
CLIPA_VISION = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
CLIPA_TEXT = {
    "context_length": 32,
    "vocab_size": 32000,
    "pool_type": "last",
    "no_causal_mask": True,
}
CLIPA = {
    "ViT-L-14": (303.96, 110.25),
    "ViT-L-14-336": (304.29, 110.25),
    "ViT-H-14": (632.07, 336.16),
    "ViT-bigG-14": (1844.9, 672.32),
}


def read(model_cfg: dict[str, Any]) -> CLIPConfig:
    return open_clip_config({"model_cfg": model_cfg}, {}, Path("name") / "open_clip_config.json")


def millions(config: CLIPConfig, tower: str) -> float:
    counters = ("running_mean", "running_var", "num_batches_tracked")
    count = sum(
        math.prod(shape)
        for name, shape in expected_shapes(config).items()
        if name.startswith(tower) and not name.endswith(counters)
    )
    return count / 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    config = read(architecture(name))
    image, text = PUBLISHED[name]
    if name.startswith("coca"):  # 255 of 256 queries are for the decoder
        image -= 255 * config.embed_dim / 1e6
    assert millions(config, "vision.") == pytest.approx(image, abs=0.0051)
    assert millions(config, "text.") == pytest.approx(text, abs=0.0051)


@pytest.mark.parametrize("name", CLIPA)
def test_published_sizes_of_clipa(name: str) -> None:
    model_cfg = architecture(name)
    model_cfg["vision_cfg"] |= CLIPA_VISION
    model_cfg["text_cfg"] |= CLIPA_TEXT
    config = read(model_cfg)
    image, text = CLIPA[name]
    assert millions(config, "vision.") == pytest.approx(image, abs=0.0051)
    assert millions(config, "text.") == pytest.approx(text, abs=0.0051)


def test_size_of_metaclip_2() -> None:
    """The published H/14 with XLM-V's vocabulary of 901,629 instead of CLIP's of 49,408."""
    model_cfg = architecture("ViT-H-14-quickgelu")
    model_cfg["text_cfg"] |= {"pool_type": "eos", "vocab_size": 901_629}
    config = read(model_cfg)
    total = sum(math.prod(shape) for shape in expected_shapes(config).values())
    assert total == 986_109_441 + (901_629 - 49_408) * 1024
    assert config.text.eos_id == 2


@pytest.mark.parametrize(
    ("sizes", "published"),  # vocabulary, width, layers, hidden width, positions; 640 of the mlp
    [
        ((250_002, 768, 12, 3072, 514), 278.27),  # xlm-roberta-base
        ((50_265, 768, 12, 3072, 514), 124.87),  # roberta-base
    ],
)
def test_published_sizes_of_roberta(sizes: tuple[int, ...], published: float) -> None:
    vocab_size, width, layers, mlp_width, positions = sizes
    text = BertConfig(
        77, vocab_size, width, layers, 12, mlp_width, 1, positions, 2, 1, "mean", "mlp"
    )
    base = preset("ViT-B-32")
    tokenizer = replace(base.tokenizer, pad_id=1)
    config = CLIPConfig("roberta", 512, base.vision, text, base.preprocess, tokenizer)
    assert millions(config, "text.") == pytest.approx(published, abs=0.0051)


def test_published_size_of_nllb() -> None:
    text = BertConfig(
        *(77, 256_206, 1024, 12, 16, 4096, 1, 0, 2, 0, "first", "linear", "relu"), pre_norm=True
    )
    base = preset("ViT-B-32")
    tokenizer = replace(base.tokenizer, pad_id=1)
    config = CLIPConfig("nllb", 512, base.vision, text, base.preprocess, tokenizer)
    assert millions(config, "text.") == pytest.approx(414.04, abs=0.0051)


def test_every_name_is_a_model() -> None:
    for name in architecture_names():
        assert read(architecture(name)).embed_dim > 0


def test_quick_gelu_is_in_the_name() -> None:
    assert read(architecture("ViT-B-32")).vision.activation == "gelu"
    assert read(architecture("ViT-B-32-quickgelu")).vision.activation == "quick_gelu"


def test_unknown_names() -> None:
    with pytest.raises(ModelError, match="did you mean 'ViT-B-32'"):
        architecture("ViT-B/32")
    with pytest.raises(ModelError, match="no such architecture"):
        architecture("coca_ViT-B-32-quickgelu")
