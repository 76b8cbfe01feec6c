"""The answer head, and its inputs: the outputs of towers before pooling."""

from dataclasses import replace

import torch

from twotower.model.answer_head import FusionHead
from twotower.model.config import EfficientNetLiteConfig, FusionConfig, SentenceEncoderConfig
from twotower.model.convnets import EfficientNetLite
from twotower.model.presets import preset
from twotower.model.text import SentenceEncoder, build_text
from twotower.model.vision import VisionTransformer, build_vision

CONFIG = FusionConfig("abc", ("yes", "no", "red"), vision_width=12, text_width=8, cells=9, width=16)


def inputs(questions: int = 4, length: int = 5) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    mask = torch.ones(questions, length, dtype=torch.bool)
    mask[0, 3:] = False
    picture = torch.tensor([0, 1, 0, 1])[:questions]
    return torch.randn(2, 9, 12), torch.randn(questions, length, 8), mask, picture


def head() -> FusionHead:
    torch.manual_seed(0)
    return FusionHead(CONFIG).eval()


def test_padding_and_other_questions_do_not_matter() -> None:
    model, (patches, tokens, mask, picture) = head(), inputs()
    logits = model(patches, tokens, mask, picture)
    assert logits.shape == (4, 3)
    tokens[0, 3:] = 100.0
    torch.testing.assert_close(model(patches, tokens, mask, picture), logits)
    alone = model(patches[:1], tokens[:1, :3], mask[:1, :3], picture[:1])
    torch.testing.assert_close(alone, logits[:1])


def test_logits_depend_on_every_patch_and_its_position() -> None:
    model, (patches, tokens, mask, picture) = head(), inputs()
    logits = model(patches, tokens, mask, picture)
    for number in range(9):
        changed = patches.clone()
        changed[0, number] += 1
        assert (model(changed, tokens, mask, picture) != logits)[picture == 0].any()
        assert torch.equal(model(changed, tokens, mask, picture)[1], logits[1])  # of the other
    moved = patches.flip(1)
    assert not torch.allclose(model(moved, tokens, mask, picture), logits)


def test_dropout_is_off_outside_training() -> None:
    model, batch = head(), inputs()
    assert torch.equal(model(*batch), model(*batch))
    model.train()
    assert not torch.equal(model(*batch), model(*batch))


def test_pooling_the_patches_gives_the_features() -> None:
    torch.manual_seed(0)
    efficient = build_vision(EfficientNetLiteConfig(64), 16).eval()
    pixel_values = torch.randn(2, 3, 64, 64)
    assert isinstance(efficient, EfficientNetLite)
    pooled = efficient.proj(efficient.patches(pixel_values).mean(dim=1))
    torch.testing.assert_close(pooled, efficient(pixel_values))
    staged = build_vision(EfficientNetLiteConfig(64, pooled_stages=4), 16).eval()
    assert isinstance(staged, EfficientNetLite)
    torch.testing.assert_close(staged.patches(pixel_values).mean(dim=1), staged.pool(pixel_values))
    siglip = preset("SigLIP-B-16-224").vision
    small = replace(siglip, image_size=32, width=32, layers=1, heads=2, mlp_width=32)
    vit = build_vision(small, 32).eval()
    assert isinstance(vit, VisionTransformer) and vit.pool is not None
    patches = vit.patches(pixel_values[:, :, :32, :32])
    assert patches.shape == (2, 4, 32)
    torch.testing.assert_close(vit.pool(patches), vit(pixel_values[:, :, :32, :32]))
    clip = replace(preset("ViT-B-32").vision, image_size=64, width=32, layers=1, heads=2)
    assert build_vision(clip, 16).patches(pixel_values).shape == (2, 4, 32)  # no class token


def test_pooling_the_tokens_gives_the_features() -> None:
    torch.manual_seed(0)
    tower = build_text(SentenceEncoderConfig(16, 50, 32, 1, 2, 32), 16).eval()
    assert isinstance(tower, SentenceEncoder)
    input_ids = torch.tensor([[5, 6, 7], [8, 0, 0]])
    tokens = tower.tokens(input_ids)
    pooled = torch.stack([tokens[0].mean(dim=0), tokens[1, 0]])
    torch.testing.assert_close(tower.proj(pooled), tower(input_ids))
