"""Properties of the towers with any weights: sizes, pooling, precision, initial values.

Figures without a source are those of the published models: OpenAI's checkpoints, open_clip's model
configurations, big_vision's SigLIP, the EfficientNet-Lite release.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from twotower.model.clip import CLIP
from twotower.model.config import (
    CLIPConfig,
    EfficientNetLiteConfig,
    ResNetConfig,
    SentenceEncoderConfig,
    TextTransformerConfig,
    ViTConfig,
)
from twotower.model.convnets import (
    Bottleneck,
    EfficientNetLite,
    GridAttentionPool,
    InvertedResidual,
    ModifiedResNet,
    round_channels,
)
from twotower.model.layers import (
    ACTIVATIONS,
    AttentionPool,
    LayerNorm,
    PostNormBlock,
    gelu_tanh,
    quick_gelu,
)
from twotower.model.presets import PRESETS, preset
from twotower.model.text import SentenceEncoder, TextTower, TextTransformer, build_text
from twotower.model.vision import VisionTransformer, build_vision

VIT = ViTConfig(32, 8, 24, 3, 2, 60, "quick_gelu")
MAP_VIT = replace(VIT, pool="map", activation="gelu_tanh")
RESNET = ResNetConfig(64, 16, (2, 1, 1, 2))
LITE = EfficientNetLiteConfig(64)
POOLED = 1280 + 320 + 192 + 112 + 80  # the head and the last four stages
LITE1 = (5_416_680 - 1_281_000) + (POOLED + 1) * 2536 + (POOLED + 2536 + 1) * 512
MINILM = (22_713_216 - 147_840 - 2 * 384) + (384 + 1) * 2048 + (384 + 2048) * 512


def block(width: int) -> int:
    """Return the size of a transformer's block: attention, an MLP four times as wide, two norms."""
    return 12 * width**2 + 13 * width


def mini_text(width: int, layers: int) -> int:
    return (49_408 + 32 + 2 + 256) * width + layers * block(width)


def bottleneck(inputs: int, width: int) -> int:
    """Return the size of a stage of one block, whose shortcut has a convolution."""
    return 5 * inputs * width + 13 * width**2 + 20 * width


MINI_VIT = (1 + 50 + 3 * 16**2 + 4 + 256) * 256 + 6 * block(256)
MINI_STEM = (3 * 16 + 16 * 16 + 16 * 32) * 9 + 2 * (16 + 16 + 32)
MINI_POOL = 5 * 1024 + 3 * (1024 + 1) * 1024 + (1024 + 1) * 256
MINI_STAGES = ((32, 32), (128, 64), (256, 128), (512, 256))
MINI_RESNET = MINI_STEM + sum(bottleneck(*stage) for stage in MINI_STAGES) + MINI_POOL
CAUSAL = TextTransformerConfig(77, 50, 24, 3, 2, 60, "quick_gelu", eos_id=49)
BIDIRECTIONAL = replace(CAUSAL, context_length=16, eos_id=None)
SENTENCE = SentenceEncoderConfig(32, 50, 24, 3, 2, 60)

BUILDERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vit": (lambda: VisionTransformer(VIT, 10), (3, 3, 32, 32)),
    "map vit": (lambda: VisionTransformer(MAP_VIT, 24), (3, 3, 32, 32)),
    "causal text": (lambda: TextTransformer(CAUSAL, 10), (3, 77)),
    "bidirectional text": (lambda: TextTransformer(BIDIRECTIONAL, 10), (3, 16)),
    "sentence encoder": (lambda: SentenceEncoder(SENTENCE, 10), (3, 12)),
}


def random_input(shape: tuple[int, ...]) -> Tensor:
    """Return pictures for a shape of four axes, and for two axes ids without 0 that end in 49."""
    if len(shape) == 4:
        return torch.randn(shape)
    input_ids = torch.randint(1, 49, shape)
    input_ids[:, -1] = 49
    return input_ids


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def std(tensor: Tensor) -> float:
    return tensor.detach().std().item()


class Observed:
    """The input and output of the latest run of a module."""

    def __init__(self, module: nn.Module) -> None:
        module.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.input, self.output = inputs[0].clone(), output.clone()


# Sizes. Total and image tower: ../shared/reference/correctness.md, parts 1 and 2.

SIZES = {
    "RN50": (102_007_137, 38_316_896),
    "RN101": (119_688_033, 56_259_936),
    "RN50x4": (178_300_601, 87_137_080),
    "RN50x16": (290_979_217, 167_328_912),
    "RN50x64": (623_258_305, 420_380_352),
    "ViT-B-32": (151_277_313, 87_849_216),
    "ViT-B-16": (149_620_737, 86_192_640),
    "ViT-L-14": (427_616_513, 303_966_208),
    "ViT-L-14-336": (427_944_193, 304_293_888),
    "ViT-H-14": (986_109_441, 632_076_800),
    "ViT-bigG-14": (2_539_567_105, 1_844_907_264),
    "SigLIP-B-16-224": (203_155_970, None),
    "SigLIP-SO400M-14-384": (877_960_498, None),
    # 375,187,970 is the published figure at 224; 256 has 16 x 16 positions instead of 14 x 14.
    "SigLIP2-B-16-256": (375_187_970 + 60 * 768, None),
    # Nobody published these two; their sizes are added up above.
    "ViT-mini-16-112": (MINI_VIT + mini_text(256, 4) + 1, MINI_VIT),
    "RN-mini-64": (MINI_RESNET + mini_text(128, 2) + 1, MINI_RESNET),
    # EfficientNet-Lite1 without its classifier, MiniLM-L6 without its pooler and token types, each
    # with a hidden layer and a projection to 512, and logit_scale.
    "twotower-small": (LITE1 + MINILM + 1, LITE1),
}


def test_the_size_of_every_preset_is_known() -> None:
    assert SIZES.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", SIZES)
def test_preset_has_the_known_size(name: str) -> None:
    with torch.device("meta"):
        model = CLIP(preset(name))
    total, vision = SIZES[name]
    assert parameters(model) == total
    if vision is not None:
        assert parameters(model.vision) == vision


def siglip(name: str, vision: dict[str, Any], text: dict[str, Any], embed_dim: int) -> CLIPConfig:
    base = preset(name)
    tower = replace(base.vision, **vision)
    preprocess = replace(base.preprocess, image_size=tower.image_size)
    tokenizer = replace(base.tokenizer, context_length=text.get("context_length", 64))
    return replace(
        base,
        vision=tower,
        text=replace(base.text, **text),
        embed_dim=embed_dim,
        preprocess=preprocess,
        tokenizer=tokenizer,
    )


L_16 = {"width": 1024, "layers": 24, "heads": 16, "mlp_width": 4096}
SO400M = {"width": 1152, "layers": 27, "heads": 16, "mlp_width": 4304}
GOPT = {"width": 1536, "layers": 40, "heads": 16, "mlp_width": 6144}
PUBLISHED_VARIANTS = {
    "L-16-SigLIP-256": (
        lambda: siglip("SigLIP-B-16-224", {**L_16, "image_size": 256}, L_16, 1024),
        652_150_786,
    ),
    "SO400M-14-SigLIP": (
        lambda: siglip("SigLIP-SO400M-14-384", {"image_size": 224}, {"context_length": 16}, 1152),
        877_360_306,
    ),
    "SO400M-14-SigLIP2": (
        lambda: siglip(
            "SigLIP2-B-16-256", {**SO400M, "image_size": 224, "patch_size": 14}, SO400M, 1152
        ),
        1_135_463_602,
    ),
    "gopt-16-SigLIP2-256": (
        lambda: siglip("SigLIP2-B-16-256", GOPT, SO400M, 1536),
        1_871_393_906,
    ),
    "ViT-g-14": (
        lambda: replace(
            preset("ViT-H-14"),
            vision=ViTConfig(224, 14, 1408, 40, 16, 6144, "gelu"),
        ),
        1_366_678_273,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED_VARIANTS)
def test_published_variants_can_be_configured(name: str) -> None:
    make, total = PUBLISHED_VARIANTS[name]
    with torch.device("meta"):
        assert parameters(CLIP(make())) == total


@pytest.mark.parametrize(
    ("width", "depth", "total"),
    [
        (1.0, 1.0, 4_652_008),
        (1.0, 1.1, 5_416_680),
        (1.1, 1.2, 6_092_072),
        (1.2, 1.4, 8_197_096),
        (1.4, 1.8, 13_006_568),
    ],
)
def test_efficientnet_lite_has_the_published_size(width: float, depth: float, total: int) -> None:
    with torch.device("meta"):
        tower = EfficientNetLite(EfficientNetLiteConfig(224, width, depth), 1000)
    assert parameters(tower) + 1000 == total  # ours has no bias after the head


def test_head_widths_of_the_presets() -> None:
    """Heads are 64 wide in OpenAI's models, and have other widths in larger ones."""
    for name, config in PRESETS.items():
        if isinstance(config.vision, ViTConfig):
            expected = {"ViT-H-14": 80, "ViT-bigG-14": 104, "SigLIP-SO400M-14-384": 72}.get(
                name, 64
            )
            assert config.vision.width / config.vision.heads == expected
        if isinstance(config.text, TextTransformerConfig):
            expected = 72 if "SO400M" in name else 64
        else:
            expected = 32
        assert config.text.width / config.text.heads == expected


def test_activations_and_eps_of_the_presets() -> None:
    for name, config in PRESETS.items():
        if name == "twotower-small":
            expected = {("gelu", 1e-12)}
        elif "SigLIP" in name:
            expected = {("gelu_tanh", 1e-6)}
        else:
            expected = {("gelu" if name in ("ViT-H-14", "ViT-bigG-14") else "quick_gelu", 1e-5)}
        towers = [tower for tower in (config.vision, config.text) if hasattr(tower, "activation")]
        assert {(tower.activation, tower.eps) for tower in towers} == expected


# Activations and norms.


def test_activation_values() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    expected = {
        "quick_gelu": [x / (1 + math.exp(-1.702 * x)) for x in x.tolist()],
        "gelu": [x / 2 * (1 + math.erf(x / math.sqrt(2))) for x in x.tolist()],
        "gelu_tanh": [
            x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
            for x in x.tolist()
        ],
        "relu": [max(x, 0.0) for x in x.tolist()],
    }
    assert ACTIVATIONS.keys() == expected.keys()
    for name, values in expected.items():
        assert ACTIVATIONS[name](x).tolist() == pytest.approx(values, abs=1e-12)
    assert quick_gelu(torch.tensor(1.0)).item() == pytest.approx(0.845795, abs=1e-6)


def test_how_far_the_gelus_are_apart() -> None:
    x = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    gap = (quick_gelu(x) - F.gelu(x)).abs()
    assert gap.max().item() == pytest.approx(0.0203, abs=5e-5)
    assert abs(x[gap.argmax()].item()) == pytest.approx(2.27, abs=0.01)
    assert 0.0004 < (gelu_tanh(x) - F.gelu(x)).abs().max().item() <= 0.00048


class NormDtypes(TorchDispatchMode):
    """Records the precision in which layer norms are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "layer_norm" in str(func):
            self.dtypes |= {argument.dtype for argument in args if isinstance(argument, Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layer_norm_computes_in_float32(dtype: torch.dtype, weights: torch.dtype) -> None:
    norm = LayerNorm(64, eps=1e-5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.to(weights)
    x = (5 + 3 * torch.randn(7, 64)).to(dtype)
    with NormDtypes() as observed:
        out = norm(x)
    assert observed.dtypes == {torch.float32}
    assert out.dtype == dtype
    x32 = x.float()
    centred = x32 - x32.mean(dim=-1, keepdim=True)
    expected = centred / (x32.var(dim=-1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = expected * norm.weight.float() + norm.bias.float()
    torch.testing.assert_close(out, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("name", BUILDERS)
def test_towers_run_in_bfloat16(name: str) -> None:
    """Results with bfloat16 weights, and under autocast, are close to those in float32."""
    build, shape = BUILDERS[name]
    tower, x = build().eval(), random_input(shape)
    with torch.no_grad():
        exact = F.normalize(tower(x), dim=-1)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = tower(x)
        low = tower.bfloat16()(x.bfloat16() if x.is_floating_point() else x)
    assert low.dtype == mixed.dtype == torch.bfloat16
    for approximate in (mixed, low):
        cosine = (F.normalize(approximate.float(), dim=-1) * exact).sum(dim=-1)
        assert cosine.min() > 0.999


# Text: padding that may be cut, and padding that may not.


def padded(input_ids: Tensor, length: int, pad_id: int) -> Tensor:
    return F.pad(input_ids, (0, length - input_ids.shape[1]), value=pad_id)


@pytest.mark.parametrize("pad_id", [0, 49])
@torch.no_grad()
def test_causal_text_can_drop_trailing_padding(pad_id: int) -> None:
    tower = TextTransformer(CAUSAL, 10).eval()
    input_ids = torch.tensor([[48, 5, 7, 0, 9, 49], [48, 49, pad_id, pad_id, pad_id, pad_id]])
    short = tower(input_ids)
    for length in (7, 20, 77):
        full = tower(padded(input_ids, length, pad_id))
        torch.testing.assert_close(short, full, rtol=0, atol=2e-6)


@torch.no_grad()
def test_causal_text_does_not_depend_on_the_pad_id() -> None:
    tower = TextTransformer(CAUSAL, 10).eval()
    input_ids = torch.tensor([[48, 5, 7, 9, 49]])
    with_0, with_49 = (tower(padded(input_ids, 77, pad_id)) for pad_id in (0, 49))
    torch.testing.assert_close(with_0, with_49, rtol=0, atol=0)


@torch.no_grad()
def test_sentence_encoder_can_drop_trailing_padding() -> None:
    tower = SentenceEncoder(SENTENCE, 10).eval()
    input_ids = torch.tensor([[11, 5, 7, 30, 9, 12], [11, 12, 0, 0, 0, 0]])
    short = tower(input_ids)
    torch.testing.assert_close(short, tower(padded(input_ids, 32, 0)), rtol=0, atol=2e-6)
    torch.testing.assert_close(short[1:], tower(input_ids[1:, :2]), rtol=0, atol=2e-6)


@torch.no_grad()
def test_bidirectional_text_needs_all_of_its_padding() -> None:
    """SigLIP attends to padding and pools it, so the encoder must pad to context_length."""
    tower = TextTransformer(BIDIRECTIONAL, 10).eval()
    input_ids = torch.tensor([[11, 5, 7, 1]])
    full, short = tower(padded(input_ids, 16, 1)), tower(input_ids)
    assert (full - short).abs().max() > 0.1


@torch.no_grad()
def test_bidirectional_text_attends_to_every_token() -> None:
    """The output at each position depends on each token."""
    tower = TextTransformer(BIDIRECTIONAL, 10).eval()
    block = Observed(tower.blocks[-1])
    input_ids = random_input((1, 16))
    tower(input_ids)
    reference = block.output
    for position in range(16):
        changed = input_ids.clone()
        changed[0, position] = (changed[0, position] + 1) % 50
        tower(changed)
        assert (block.output - reference).abs().amax(dim=-1).min() > 1e-5


@torch.no_grad()
def test_causal_text_ignores_tokens_after_the_first_eos() -> None:
    tower = TextTransformer(CAUSAL, 10).eval()
    input_ids = torch.tensor([[48, 5, 7, 49, 3, 49, 8]])
    reference = tower(input_ids)
    for position in range(7):
        changed = input_ids.clone()
        changed[0, position] = 20
        unchanged = torch.allclose(tower(changed), reference, atol=1e-6)
        assert unchanged == (position > 3)


@pytest.mark.parametrize(
    ("eos_id", "row", "position"),
    [
        (49, [48, 5, 49, 3, 49], 2),
        (49, [48, 49, 49, 49, 49], 1),
        (7, [48, 49, 5, 7, 49], 3),  # a larger id before and after
        (7, [7, 49, 5, 7, 49], 0),
        (2, [48, 5, 9, 2, 0], 3),  # 2 is an ordinary id here, though not in transformers
    ],
)
def test_text_is_pooled_at_the_first_eos(eos_id: int, row: list[int], position: int) -> None:
    tower = TextTransformer(replace(CAUSAL, eos_id=eos_id), 10)
    x = torch.randn(2, len(row), 24)
    pooled = tower.pool(x, torch.tensor([row, [eos_id] * len(row)]))
    assert torch.equal(pooled, torch.stack([x[0, position], x[1, 0]]))


@torch.no_grad()
def test_sentence_encoder_averages_its_tokens() -> None:
    tower = SentenceEncoder(replace(SENTENCE, pad_id=3), 24)
    nn.init.eye_(tower.proj.weight)
    block = Observed(tower.blocks[-1])
    features = tower(torch.tensor([[11, 0, 7, 3, 3]]))
    torch.testing.assert_close(features, block.output[:, :3].mean(dim=1))


LEXICON = replace(SENTENCE, lexicon_size=6, lexicon_rank=8)
NAME = LEXICON.vocab_size  # the id of the first name


def lexicon_tower() -> SentenceEncoder:
    torch.manual_seed(0)
    return SentenceEncoder(LEXICON, 10).eval()


@torch.no_grad()
def test_a_text_without_names_has_the_features_of_the_plain_tower() -> None:
    tower, plain = lexicon_tower(), SentenceEncoder(SENTENCE, 10).eval()
    weights = {k: v for k, v in tower.state_dict().items() if not k.startswith("lexicon.")}
    plain.load_state_dict(weights)
    input_ids = random_input((3, 12))
    assert torch.equal(tower(input_ids), plain(input_ids))
    with_names = torch.cat([input_ids, torch.full((3, 2), NAME + 5)], dim=1)
    padded_ids = torch.cat([input_ids, torch.zeros(3, 2, dtype=torch.long)], dim=1)
    assert torch.equal(tower.pool(with_names), plain.pool(padded_ids))
    assert torch.equal(tower.tokens(with_names), plain.tokens(padded_ids))


@torch.no_grad()
def test_the_mean_of_the_names_is_added_in_proportion_to_the_features() -> None:
    tower = lexicon_tower()
    assert tower.lexicon is not None
    words = torch.tensor([[11, 5, 7, 12, 0, 0]])
    text = torch.tensor([[11, 5, 7, 12, NAME + 1, NAME + 4]])
    features = tower(words)
    mean = tower.lexicon.embed.weight[[2, 5]].mean(dim=0)
    expected = features + features.norm() * tower.lexicon.proj(mean)
    torch.testing.assert_close(tower(text), expected)
    swapped = torch.tensor([[11, 5, 7, 12, NAME + 4, NAME + 1, 0]])
    torch.testing.assert_close(tower(swapped), expected)


# Image towers.


@torch.no_grad()
def test_vit_pools_its_class_token() -> None:
    tower = VisionTransformer(VIT, 10).eval()
    embeddings, block = Observed(tower.ln_pre), Observed(tower.blocks[-1])
    features = tower(torch.randn(2, 3, 32, 32))
    assert embeddings.input.shape == (2, 1 + 16, 24)
    class_token = tower.class_embed + tower.pos_embed[0]
    torch.testing.assert_close(embeddings.input[:, 0], class_token.expand(2, -1))
    torch.testing.assert_close(features, tower.proj(tower.ln_post(block.output[:, 0])))
    assert tower.patch_embed.bias is None
    assert tower.proj.bias is None


@torch.no_grad()
def test_patches_are_read_in_rows() -> None:
    tower = VisionTransformer(VIT, 10).eval()
    embeddings = Observed(tower.ln_pre)
    picture = torch.zeros(1, 3, 32, 32)
    picture[0, :, 8:16, 24:32] = 1.0  # the second row's last patch
    tower(picture)
    lit = (embeddings.input[0, 1:] - tower.pos_embed[1:]).abs().amax(dim=-1) > 1e-6
    assert lit.nonzero().flatten().tolist() == [7]


@torch.no_grad()
def test_attention_pool_has_no_residual_from_the_probe() -> None:
    pool = AttentionPool(24, 2, 60, "gelu_tanh", 1e-6)
    x = torch.randn(2, 9, 24)
    assert std(pool.probe) > 0.1
    before = pool(x)
    for linear in (pool.out, pool.mlp.fc2):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    assert torch.equal(pool(x), torch.zeros(2, 24))
    assert before.abs().max() > 0.1


@torch.no_grad()
def test_attention_pool_equals_torch_multi_head_attention() -> None:
    pool = AttentionPool(24, 2, 60, "gelu", 1e-6)
    torchs = nn.MultiheadAttention(24, 2, batch_first=True)
    torchs.in_proj_weight.copy_(pool.qkv.weight)
    torchs.in_proj_bias.copy_(pool.qkv.bias)
    torchs.out_proj.load_state_dict(pool.out.state_dict())
    x = torch.randn(2, 9, 24)
    attended = torchs(pool.probe.expand(2, -1, -1), x, x)[0][:, 0]
    expected = attended + pool.mlp(pool.ln(attended))
    torch.testing.assert_close(pool(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("share", "kept"), [(0.25, 12), (0.5, 8), (0.9, 2), (0.99, 1)])
@pytest.mark.parametrize("config", [VIT, MAP_VIT], ids=["class", "map"])
@torch.no_grad()
def test_patch_dropout(config: ViTConfig, share: float, kept: int) -> None:
    tower = VisionTransformer(config, 24)
    fixed = int(config.pool == "class")
    embeddings, block = Observed(tower.ln_pre), Observed(tower.blocks[0])
    pictures = torch.randn(5, 3, 32, 32)
    tower.eval()
    full = tower(pictures)
    everything = embeddings.input
    tower.patch_dropout = share
    assert torch.equal(tower(pictures), full)  # off outside training

    tower.train()
    torch.manual_seed(1)
    dropped = tower(pictures)
    tokens = embeddings.input
    assert tokens.shape == block.input.shape == (5, fixed + kept, 24)
    assert torch.equal(tokens[:, :fixed], everything[:, :fixed])
    choices = []
    for kept_tokens, all_tokens in zip(tokens[:, fixed:], everything[:, fixed:], strict=True):
        source = (kept_tokens[:, None] == all_tokens[None]).all(dim=-1)  # [kept, patches]
        assert source.sum(dim=1).tolist() == [1] * kept
        choices.append(frozenset(source.int().argmax(dim=1).tolist()))
    assert {len(choice) for choice in choices} == {kept}  # no patch twice
    assert len(set(choices)) > 1  # another choice for each picture

    torch.manual_seed(1)
    assert torch.equal(tower(pictures), dropped)
    torch.manual_seed(2)
    assert not torch.equal(tower(pictures), dropped)


def test_patch_dropout_is_off_by_default() -> None:
    tower = VisionTransformer(VIT, 10).train()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(tower(x), tower(x))


@pytest.mark.parametrize("name", BUILDERS)
def test_checkpointing_changes_nothing_but_memory(name: str) -> None:
    build, shape = BUILDERS[name]
    tower, x = build().train(), random_input(shape)

    def run() -> list[Tensor]:
        tower.zero_grad()
        out = tower(x)
        out.square().sum().backward()
        return [out.detach(), *(tensor.grad.clone() for tensor in tower.parameters())]

    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    def run_and_count() -> tuple[list[Tensor], int]:
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            results = run()
        return results, len(saved)

    plain, plain_saved = run_and_count()
    tower.checkpointing = True
    checkpointed, checkpointed_saved = run_and_count()
    assert checkpointed_saved < plain_saved / 2
    for tensor, expected in zip(plain, checkpointed, strict=True):
        assert torch.equal(tensor, expected)


@pytest.fixture
def resnet() -> ModifiedResNet:
    """A tower with random parameters and batch statistics, so that each affects the result."""
    tower = ModifiedResNet(RESNET, 10).eval()
    for name, tensor in tower.state_dict().items():
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.copy_(torch.rand(tensor.shape) + 0.5 if "var" in name else tensor)
                if tensor.ndim == 1 and "var" not in name:
                    tensor.copy_(torch.randn(tensor.shape))
    return tower


@torch.no_grad()
def test_resnet_strides(resnet: ModifiedResNet) -> None:
    convolutions = {
        name: module for name, module in resnet.named_modules() if isinstance(module, nn.Conv2d)
    }
    assert {n for n, module in convolutions.items() if module.stride != (1, 1)} == {"stem.conv1"}
    assert all(module.bias is None for module in convolutions.values())
    assert not [module for module in resnet.modules() if isinstance(module, nn.MaxPool2d)]
    stem = {name: Observed(getattr(resnet.stem, name)) for name in ("conv1", "conv3", "pool")}
    stages = [Observed(stage) for stage in resnet.stages]
    features = resnet(torch.randn(2, 3, 64, 64))
    assert stem["conv1"].output.shape == (2, 8, 32, 32)
    assert stem["conv3"].output.shape == (2, 16, 32, 32)
    assert stem["pool"].output.shape == (2, 16, 16, 16)
    assert [tuple(module.output.shape[1:]) for module in stages] == [
        (64, 16, 16),
        (128, 8, 8),
        (256, 4, 4),
        (512, 2, 2),
    ]
    assert features.shape == (2, 10)
    assert resnet.attnpool.heads == 512 // 64
    norms = [module for module in resnet.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(module.eps, module.momentum) for module in norms} == {(1e-5, 0.1)}


def naive_batch_norm(x: Tensor, norm: nn.BatchNorm2d, eps: float = 1e-5) -> Tensor:
    scale = norm.weight / (norm.running_var + eps).sqrt()
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_bottleneck_pools_after_its_second_relu(resnet: ModifiedResNet, stride: int) -> None:
    """The block pools before its third convolution, and the shortcut before its convolution."""
    block = resnet.stages[stride - 1][0]
    assert isinstance(block, Bottleneck)
    x = torch.randn(2, block.conv1.in_channels, 8, 8)
    out = naive_batch_norm(F.conv2d(x, block.conv1.weight), block.bn1).relu()
    out = naive_batch_norm(F.conv2d(out, block.conv2.weight, padding=1), block.bn2).relu()
    out = F.avg_pool2d(out, stride)
    out = naive_batch_norm(F.conv2d(out, block.conv3.weight), block.bn3)
    shortcut = F.conv2d(F.avg_pool2d(x, stride), block.downsample.conv.weight)
    shortcut = naive_batch_norm(shortcut, block.downsample.bn)
    third = Observed(block.conv3)
    torch.testing.assert_close(block(x), (out + shortcut).relu(), rtol=1e-4, atol=1e-4)
    # Pooling after the third convolution and its norm would give the same in eval, not in training.
    assert third.input.shape[2:] == (8 // stride, 8 // stride)


@torch.no_grad()
def test_resnet_stem(resnet: ModifiedResNet) -> None:
    x = expected = torch.randn(2, 3, 64, 64)
    stem = resnet.stem
    for index, stride in ((1, 2), (2, 1), (3, 1)):
        convolution, norm = getattr(stem, f"conv{index}"), getattr(stem, f"bn{index}")
        expected = F.conv2d(expected, convolution.weight, stride=stride, padding=1)
        expected = naive_batch_norm(expected, norm).relu()
    torch.testing.assert_close(stem(x), F.avg_pool2d(expected, 2), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_resnet_blocks_start_as_their_shortcuts() -> None:
    tower = ModifiedResNet(RESNET, 10).eval()
    blocks = [module for module in tower.modules() if isinstance(module, Bottleneck)]
    assert len(blocks) == sum(RESNET.layers)
    for block in blocks:
        assert torch.equal(block.bn3.weight, torch.zeros_like(block.bn3.weight))
        assert (block.bn1.weight == 1).all() and (block.bn2.weight == 1).all()
        x = torch.randn(1, block.conv1.in_channels, 4, 4)
        torch.testing.assert_close(block(x), block.downsample(x).relu())


@torch.no_grad()
def test_grid_attention_pool_equals_torch_multi_head_attention() -> None:
    """The original calls `multi_head_attention_forward` with one query, the mean of positions."""
    pool = GridAttentionPool(3, 32, 4, 10)
    x = torch.randn(2, 32, 3, 3)
    tokens = x.flatten(2).permute(2, 0, 1)  # [positions, B, width]
    tokens = torch.cat([tokens.mean(dim=0, keepdim=True), tokens]) + pool.pos_embed[:, None]
    expected, _ = F.multi_head_attention_forward(
        query=tokens[:1],
        key=tokens,
        value=tokens,
        embed_dim_to_check=32,
        num_heads=4,
        q_proj_weight=pool.q.weight,
        k_proj_weight=pool.k.weight,
        v_proj_weight=pool.v.weight,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q.bias, pool.k.bias, pool.v.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.out.weight,
        out_proj_bias=pool.out.bias,
        use_separate_proj_weight=True,
        training=False,
        need_weights=False,
    )
    torch.testing.assert_close(pool(x), expected[0], rtol=0, atol=1e-6)


@torch.no_grad()
def test_efficientnet_lite_shapes() -> None:
    tower = EfficientNetLite(LITE, 10).eval()
    stem, blocks, head = Observed(tower.stem), Observed(tower.blocks[-1]), Observed(tower.head)
    features = tower(torch.randn(2, 3, 64, 64))
    assert stem.output.shape == (2, 32, 32, 32)
    assert blocks.output.shape == (2, 320, 2, 2)
    assert head.output.shape == (2, 1280, 2, 2)
    assert features.shape == (2, 10)
    assert len(tower.blocks) == 1 + 2 + 2 + 3 + 3 + 4 + 1
    strides = [block.depthwise.conv.stride[0] for block in tower.blocks]
    assert strides == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    residuals = [block.residual for block in tower.blocks]
    assert [index for index, residual in enumerate(residuals) if residual] == [
        2,
        4,
        6,
        7,
        9,
        10,
        12,
        13,
        14,
    ]
    expected = tower.proj(head.output.mean(dim=(2, 3)))
    assert (features - expected).norm() < 1e-5 * expected.norm()  # untrained features are small


@pytest.mark.parametrize(("channels", "stride"), [(8, 1), (8, 2), (16, 1)])
@torch.no_grad()
def test_inverted_residual(channels: int, stride: int) -> None:
    """Padding is as in TensorFlow: with stride 2, one pixel less before than after."""
    block = InvertedResidual(8, channels, 5, 6, stride).eval()
    x = 20 * torch.randn(2, 8, 10, 10)
    out = F.conv2d(x, block.expand.conv.weight)
    out = naive_batch_norm(out, block.expand.bn, 1e-3).clamp(0, 6)
    out = F.pad(out, (2, 2, 2, 2) if stride == 1 else (1, 2, 1, 2))
    out = F.conv2d(out, block.depthwise.conv.weight, stride=stride, groups=48)
    out = naive_batch_norm(out, block.depthwise.bn, 1e-3).clamp(0, 6)
    out = naive_batch_norm(F.conv2d(out, block.reduce.conv.weight), block.reduce.bn, 1e-3)
    expected = x + out if channels == 8 and stride == 1 else out
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-4)
    assert out.std() > 0.1


@torch.no_grad()
def test_efficientnet_lite_pools_its_last_stages() -> None:
    """Stages end with blocks 0, 2, 4, 7, 10, 14 and 15."""
    tower = EfficientNetLite(replace(LITE, pooled_stages=3, hidden_width=7), 10).eval()
    assert tower.hidden is not None
    nn.init.constant_(tower.norm.running_mean, 0.5)
    nn.init.constant_(tower.norm.running_var, 9.0)
    observed = [
        Observed(module) for module in (tower.head, *(tower.blocks[end] for end in (10, 14, 15)))
    ]
    features = tower(torch.randn(2, 3, 64, 64))
    pooled = torch.cat([module.output.mean(dim=(2, 3)) for module in observed], dim=1)
    assert pooled.shape == (2, 1280 + 112 + 192 + 320)
    pooled = (pooled - 0.5) / 3
    hidden = F.gelu(F.linear(pooled, tower.hidden.weight, tower.hidden.bias))
    expected = F.linear(torch.cat([pooled, hidden], 1), tower.proj.weight, tower.proj.bias)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_efficientnet_lite_clips_its_activations_at_6() -> None:
    tower = EfficientNetLite(LITE, 10).eval()
    stem, reduced = Observed(tower.stem), Observed(tower.blocks[0].reduce)
    tower(100 * torch.randn(2, 3, 64, 64))
    assert stem.output.min() == 0
    assert stem.output.max() == 6
    assert reduced.output.min() < 0  # the narrow end of a block has no activation


def test_round_channels() -> None:
    """Channels are multiples of 8, at most 10 % below; the widths are EfficientNet-Lite4's."""
    lite4 = {16: 24, 24: 32, 40: 56, 80: 112, 112: 160, 192: 272, 320: 448}
    assert {channels: round_channels(channels * 1.4) for channels in lite4} == lite4
    assert [round_channels(channels) for channels in (1, 11, 12, 16, 18)] == [8, 16, 16, 16, 24]


@pytest.mark.parametrize(
    "config", [VIT, MAP_VIT, RESNET, LITE], ids=["vit", "map vit", "resnet", "efficientnet lite"]
)
@torch.no_grad()
def test_a_picture_does_not_depend_on_its_batch(config: Any) -> None:
    embed_dim = 24 if config is MAP_VIT else 10
    tower = build_vision(config, embed_dim).eval()
    pictures = torch.randn(3, 3, config.image_size, config.image_size)
    features = tower(pictures)
    assert features.shape == (3, embed_dim)
    alone, among = tower(pictures[1:2]), features[1:2]
    assert (alone - among).norm() < 1e-5 * among.norm()


# Initial values: OpenAI's (correctness.md, part 1).


def text_towers() -> Iterator[tuple[TextTower, TextTransformerConfig]]:
    for layers in (2, 4):
        config = TextTransformerConfig(77, 500, 256, layers, 4, 1024, "quick_gelu", eos_id=499)
        yield TextTransformer(config, 128), config


def test_initial_values_of_the_text_tower() -> None:
    for tower, config in text_towers():
        width, depth = config.width, config.layers
        assert std(tower.token_embed.weight) == pytest.approx(0.02, rel=0.02)
        assert std(tower.pos_embed) == pytest.approx(0.01, rel=0.03)
        assert std(tower.proj.weight) == pytest.approx(width**-0.5, rel=0.02)
        for block in tower.blocks:
            residual = width**-0.5 * (2 * depth) ** -0.5
            assert std(block.attn.qkv.weight) == pytest.approx(width**-0.5, rel=0.02)
            assert std(block.attn.out.weight) == pytest.approx(residual, rel=0.02)
            assert std(block.mlp.fc1.weight) == pytest.approx((2 * width) ** -0.5, rel=0.02)
            assert std(block.mlp.fc2.weight) == pytest.approx(residual, rel=0.02)
            assert not block.attn.qkv.bias.any() and not block.attn.out.bias.any()


def test_initial_values_of_the_vit() -> None:
    """Blocks are initialised as `nn.MultiheadAttention` and `nn.Linear` are."""
    width = 256
    tower = VisionTransformer(ViTConfig(128, 8, width, 2, 4, 1024, "quick_gelu"), 128)
    assert std(tower.class_embed) == pytest.approx(width**-0.5, rel=0.2)
    assert std(tower.pos_embed) == pytest.approx(width**-0.5, rel=0.02)
    assert std(tower.proj.weight) == pytest.approx(width**-0.5, rel=0.02)
    torchs = nn.TransformerEncoderLayer(width, 4, 1024)
    for block in tower.blocks:
        for ours, theirs in (
            (block.attn.qkv.weight, torchs.self_attn.in_proj_weight),
            (block.attn.out.weight, torchs.self_attn.out_proj.weight),
            (block.mlp.fc1.weight, torchs.linear1.weight),
            (block.mlp.fc2.weight, torchs.linear2.weight),
        ):
            assert std(ours) == pytest.approx(std(theirs), rel=0.02)
            assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.02)
        assert not block.attn.qkv.bias.any() and not block.attn.out.bias.any()


def test_initial_values_of_the_grid_attention_pool() -> None:
    pool = GridAttentionPool(7, 256, 4, 128)
    for tensor in (pool.pos_embed, pool.q.weight, pool.k.weight, pool.v.weight, pool.out.weight):
        assert std(tensor) == pytest.approx(256**-0.5, rel=0.03)


def test_initial_temperature() -> None:
    tiny = replace(
        preset("ViT-B-32"), vision=replace(VIT, image_size=224, patch_size=112), text=CAUSAL
    )
    clip, siglip = CLIP(tiny), CLIP(replace(tiny, logit_bias=True))
    assert clip.logit_scale.item() == pytest.approx(2.65926, abs=1e-5)
    assert clip.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-6)
    assert clip.logit_bias is None
    assert siglip.logit_scale.item() == pytest.approx(math.log(10), abs=1e-6)
    assert siglip.logit_bias is not None
    assert siglip.logit_bias.item() == -10


def test_logits_of_unequal_numbers() -> None:
    config = replace(
        preset("ViT-B-32"),
        embed_dim=10,
        vision=replace(VIT, image_size=224, patch_size=112),
        text=CAUSAL,
        logit_bias=True,
    )
    model = CLIP(config).eval()
    with torch.no_grad():
        output = model(torch.randn(2, 3, 224, 224), random_input((5, 77)))
        cosines = output.image_embeds @ output.text_embeds.T
    for embeds, count in ((output.image_embeds, 2), (output.text_embeds, 5)):
        assert embeds.shape == (count, 10)
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(count))
    torch.testing.assert_close(output.logits_per_image, 10 * cosines - 10)
    torch.testing.assert_close(output.logits_per_text, output.logits_per_image.T)


def test_post_norm_blocks_leave_normed_vectors() -> None:
    block = PostNormBlock(24, 2, 60, "gelu", 1e-12)
    out = block(7 * torch.randn(2, 5, 24))
    torch.testing.assert_close(out.mean(dim=-1), torch.zeros(2, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(dim=-1, correction=0), torch.ones(2, 5))


def test_builders_choose_the_tower_by_its_config() -> None:
    towers = [build_vision(VIT, 10), build_vision(RESNET, 10), build_vision(LITE, 10)]
    assert [type(tower) for tower in towers] == [
        VisionTransformer,
        ModifiedResNet,
        EfficientNetLite,
    ]
    texts = [build_text(CAUSAL, 10), build_text(SENTENCE, 10)]
    assert [type(tower) for tower in texts] == [TextTransformer, SentenceEncoder]


@torch.no_grad()
def test_forward_is_embed_and_logits() -> None:
    """A training step calls `embed`, so it must be what `forward` documents, to the bit."""
    vision = replace(VIT, image_size=224, patch_size=112)
    model = CLIP(replace(preset("ViT-B-32"), embed_dim=10, vision=vision, text=CAUSAL)).eval()
    inputs = torch.randn(2, 3, 224, 224), random_input((5, 77))
    output, (image_embeds, text_embeds) = model(*inputs), model.embed(*inputs)
    assert torch.equal(output.image_embeds, image_embeds)
    assert torch.equal(output.text_embeds, text_embeds)
    logits = model.logit_scale.exp() * image_embeds @ text_embeds.T
    assert torch.equal(output.logits_per_image, logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert {embeds.dtype for embeds in model.embed(*inputs)} == {torch.float32}
