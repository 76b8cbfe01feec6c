"""Gradient caching: the gradients of the whole batch, to rounding, for every parameter."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tiny_models import random_tensors, siglip_config, tiny_config
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig, SentenceEncoderConfig
from twotower.train.accumulate import backward_batch
from twotower.train.estimate import largest_chunk
from twotower.train.loss import clip_loss, siglip_loss, tiled_clip_loss, tiled_siglip_loss
from twotower.train.towers import Towers


def model_of(config: CLIPConfig, patch_dropout: float) -> CLIP:
    model = CLIP(config)
    model.load_state_dict(random_tensors(config))
    if hasattr(model.vision, "patch_dropout"):
        model.vision.patch_dropout = patch_dropout
    return model.double().train()


def sentence_config() -> CLIPConfig:
    text = SentenceEncoderConfig(64, 200, 32, 2, 2, 64)
    return replace(
        tiny_config(), text=text, tokenizer=replace(tiny_config().tokenizer, context_length=64)
    )


def batch(config: CLIPConfig, size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    pixel_values = torch.randn(size, 3, 64, 64, generator=generator, dtype=torch.float64)
    input_ids = torch.randint(1, config.text.vocab_size - 2, (size, 64), generator=generator)
    if config.text.kind == "transformer" and config.text.causal:
        input_ids[:, 9] = config.text.eos_id
    return pixel_values, input_ids


def loss_of(model: CLIP) -> object:
    if model.logit_bias is None:
        return lambda images, texts: tiled_clip_loss(images, texts, model.logit_scale, tile=4)
    return lambda images, texts: tiled_siglip_loss(
        images, texts, model.logit_scale, model.logit_bias, tile=4
    )


def gradients(
    config: CLIPConfig, chunk_size: int, patch_dropout: float, size: int = 6
) -> dict[str, Tensor]:
    model = model_of(config, patch_dropout)
    scalars = [scalar for scalar in (model.logit_scale, model.logit_bias) if scalar is not None]
    torch.manual_seed(3)
    loss = backward_batch(Towers(model), scalars, *batch(config, size), loss_of(model), chunk_size)
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
    return {"loss": loss, **grads}


@pytest.mark.parametrize("patch_dropout", [0.0, 0.5])
@pytest.mark.parametrize("make", [tiny_config, siglip_config, sentence_config])
def test_chunks_give_the_gradients_of_the_whole(make: object, patch_dropout: float) -> None:
    whole = gradients(make(), 6, patch_dropout)
    for chunk_size in (1, 2, 4):  # the last one leaves a smaller chunk
        chunked = gradients(make(), chunk_size, patch_dropout)
        for name, grad in whole.items():
            scale = grad.abs().max()
            torch.testing.assert_close(chunked[name] / scale, grad / scale, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [tiny_config, siglip_config])
def test_the_whole_equals_plain_backward(make: object) -> None:
    config = make()
    model = model_of(config, 0.0)
    output = model(*batch(config))
    plain = siglip_loss if config.logit_bias else clip_loss
    loss = plain(output.logits_per_image)
    loss.backward()
    actual = gradients(config, 2, 0.0)
    torch.testing.assert_close(actual["loss"], loss.detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(actual[name], parameter.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("make", [tiny_config, siglip_config, sentence_config])
def test_texts_of_similar_length_are_computed_together(
    make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the number of computed positions changes."""
    config = make()
    pixel_values, input_ids = batch(config, 40)
    lengths = torch.randint(3, 60, (40,), generator=torch.Generator().manual_seed(0))
    after = torch.arange(64) >= lengths[:, None]
    if config.text.kind == "sentence_encoder":
        input_ids[after] = config.text.pad_id
    elif config.text.causal:
        input_ids[:, 9] = 5
        input_ids[after] = 0
        input_ids[torch.arange(40), lengths - 1] = config.text.eos_id
    model = model_of(config, 0.0)
    computed = []
    forward = model.text.forward
    monkeypatch.setattr(
        model.text, "forward", lambda ids: [computed.append(ids.numel()), forward(ids)][1]
    )
    _, text_embeds = Towers(model)(pixel_values, input_ids)
    grouped = sum(computed)
    torch.testing.assert_close(text_embeds, model.encode_text(input_ids))
    assert grouped < 0.8 * 40 * 64 or (config.logit_bias and grouped == 40 * 64)


def test_gradients_accumulate() -> None:
    model = model_of(tiny_config(), 0.0)
    for _ in range(2):
        backward_batch(Towers(model), [model.logit_scale], *batch(tiny_config()), loss_of(model), 3)
    once = gradients(tiny_config(), 3, 0.0)
    torch.testing.assert_close(model.logit_scale.grad, 2 * once["logit_scale"])
    weight = "vision.blocks.0.mlp.fc1.weight"
    torch.testing.assert_close(model.get_parameter(weight).grad, 2 * once[weight])


def test_memory_chooses_the_chunk() -> None:
    towers = Towers(CLIP(tiny_config()))
    pixel_values, input_ids = torch.randn(2, 3, 64, 64), torch.ones(2, 77, dtype=torch.long)
    input_ids[:, -1] = tiny_config().text.eos_id
    fixed = 4 * sum(weight.nbytes for weight in towers.parameters())
    small, large = (
        largest_chunk(towers, pixel_values, input_ids, fixed + room) for room in (10**7, 10**8)
    )
    assert 1 < small < large
    assert large / small == pytest.approx(10, rel=0.35)
    assert largest_chunk(towers, pixel_values, input_ids, 0) == 1
