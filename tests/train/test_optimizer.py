"""Parameter groups and schedules, against the numbers of the papers."""

import math

import pytest
import torch

from tests.tiny_models import tiny_config
from twotower.model.clip import CLIP
from twotower.train.config import DataConfig, OptimizerConfig, TrainConfig, with_values
from twotower.train.optimizer import build_optimizers, layer_factor, schedule, set_learning_rate

CONFIG = TrainConfig(
    tiny_config(), DataConfig(()), steps=100, optimizer=OptimizerConfig(warmup_steps=10)
)


def rates(config: TrainConfig) -> dict[str, tuple[str, float, float]]:
    """Return (optimizer, decay, learning rate) of each parameter."""
    model = CLIP(config.model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (type(optimizer).__name__, group["weight_decay"], group["initial_lr"])
        for optimizer in build_optimizers(model, config)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_matrices_decay() -> None:
    actual = rates(CONFIG)
    assert set(actual) == {name for name, _ in CLIP(CONFIG.model).named_parameters()}
    for name in ("vision.blocks.0.attn.qkv.weight", "text.token_embed.weight", "text.pos_embed"):
        assert actual[name] == ("AdamW", 0.2, 5e-4), name
    for name in ("logit_scale", "vision.ln_pre.weight", "text.blocks.1.mlp.fc1.bias"):
        assert actual[name] == ("AdamW", 0.0, 5e-4), name


def test_muon_takes_the_matrices_of_blocks() -> None:
    actual = rates(with_values(CONFIG, {"optimizer.name": "muon"}))
    muon = {name for name, (kind, _, _) in actual.items() if kind == "Muon"}
    layers = ("attn.qkv", "attn.out", "mlp.fc1", "mlp.fc2")
    assert muon == {
        f"{tower}.blocks.{block}.{layer}.weight"
        for tower in ("vision", "text")
        for block in (0, 1)
        for layer in layers
    }


def test_earlier_layers_learn_more_slowly() -> None:
    model = CLIP(CONFIG.model)
    factors = {
        "vision.patch_embed.weight": 0.5**3,
        "vision.blocks.0.mlp.fc1.weight": 0.5**2,
        "vision.blocks.1.mlp.fc1.weight": 0.5,
        "vision.ln_post.weight": 1.0,
        "text.proj.weight": 1.0,
        "logit_scale": 1.0,
    }
    for name, factor in factors.items():
        assert layer_factor(name, model, 0.5) == factor, name
    assert (
        rates(with_values(CONFIG, {"optimizer.layer_decay": 0.5}))[
            "vision.blocks.1.attn.out.weight"
        ][2]
        == 2.5e-4
    )


def test_locked_towers_have_no_moments() -> None:
    model = CLIP(CONFIG.model)
    model.vision.requires_grad_(False)
    [optimizer] = build_optimizers(model, CONFIG)
    learning = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert not learning & {id(parameter) for parameter in model.vision.parameters()}


def test_the_schedules() -> None:
    assert [schedule(step, CONFIG) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]
    for step in (10, 55, 99):
        expected = (1 + math.cos(math.pi * (step - 10) / 90)) / 2
        assert schedule(step, CONFIG) == pytest.approx(expected)
    stable = with_values(CONFIG, {"optimizer.schedule": "wsd", "optimizer.decay_share": 0.2})
    factors = [schedule(step, stable) for step in (9, 50, 80, 90, 99)]
    assert factors == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.05])


def test_every_group_follows_its_own_rate() -> None:
    model = CLIP(CONFIG.model)
    optimizers = build_optimizers(
        model, with_values(CONFIG, {"optimizer.name": "muon", "optimizer.layer_decay": 0.5})
    )
    set_learning_rate(optimizers, 0.25)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            assert group["lr"] == group["initial_lr"] / 4


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_steps_lower_the_loss(kind: str) -> None:
    torch.manual_seed(0)
    model = CLIP(CONFIG.model)
    config = with_values(CONFIG, {"optimizer.name": kind, "optimizer.lr": 1e-3})
    optimizers = build_optimizers(model, config)
    pixels, texts = torch.randn(4, 3, 64, 64), torch.full((4, 5), 49407)
    texts[:, :4] = torch.arange(16).view(4, 4)
    losses = []
    for _ in range(5):
        logits = model(pixels, texts).logits_per_image
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(4))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
