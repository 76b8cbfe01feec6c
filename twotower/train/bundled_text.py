"""The text tower of the bundled model: what MiniLM learns beyond sentences.

Two lessons, in two rounds: names go where `words.py` has them, captions to what the teacher saw in
their pictures.

1. The encoder learns, but for its word embeddings: a word that is in no lesson keeps its place
   among its like.
2. A hidden layer after it learns alone, from what the encoder pools, ten times as often:
   thirteen thousand names are more than the first round can learn by heart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP
from twotower.train.lessons import (
    PRECISION,
    Pictures,
    Plan,
    Say,
    Words,
    features_of,
    in_template,
    pair_loss,
    place_loss,
    sentence_encoder,
    steps,
)
from twotower.train.wordnet import plain

CAPTIONS_COUNT = 0.7  # beside names
FIRST_SCALE = 40.0  # of the logits between captions and pictures, which is learned
TEMPLATES = (
    *("{}",) * 3,
    "a photo of a {}.",
    "a photo of {}.",
    "a picture of a {}",
    "the {}",
    "a {}",
    "an image of {}",
    "a drawing of a {}.",
    "a close-up of a {}.",
    "{} in the picture",
    "there is a {} in the scene.",
)
# How names are given in the second round, and how often.
FORMS = ("{}", "a photo of a {}.", "a {}", "the {}", "a photo of {}.")
FORMS_CHANCES = (0.4, 0.3, 0.1, 0.1, 0.1)


def train_text(
    model: CLIP, tokenizer: Tokenizer, words: Words, pictures: Pictures, plan: Plan, say: Say
) -> None:
    """Both rounds."""
    start_projection(model, tokenizer, words)
    train_encoder(model, tokenizer, words, pictures, plan, say)
    train_hidden(model, tokenizer, words, pictures, plan, say)


def train_encoder(
    model: CLIP, tokenizer: Tokenizer, words: Words, pictures: Pictures, plan: Plan, say: Say
) -> None:
    """The first round."""
    text: Any = model.text
    text.token_embed.requires_grad_(False)
    body = [text.pos_embed, *text.ln_embed.parameters(), *text.blocks.parameters()]
    log_scale = torch.tensor(math.log(FIRST_SCALE), requires_grad=True)
    optimizer = torch.optim.AdamW(
        [
            {"params": body, "lr": 2e-4},
            {"params": [*text.proj.parameters(), log_scale], "lr": 1e-3},
        ],
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    draw, numbers = random.Random(plan.seed), np.random.default_rng(plan.seed)
    centre = words.vectors[: words.known].mean(dim=0)
    chances = words.weights / words.weights.sum()
    sentences, labels = told_and_named(pictures, plan)
    width = text.token_embed.embedding_dim

    def see(input_ids: Tensor) -> Tensor:
        return F.linear(text.pool(input_ids), text.proj.weight[:, :width])  # no hidden layer yet

    for step in steps(plan.text_steps, optimizer):
        chosen = numbers.choice(len(words.names), plan.words, replace=False, p=chances)
        prompts = [in_template(draw.choice(TEMPLATES), words.names[row]) for row in chosen]
        third = plan.captions // 3
        rows = np.concatenate(
            [numbers.choice(sentences, plan.captions - third), numbers.choice(labels, third)]
        )
        captions = [draw.choice(pictures.captions[row]) for row in rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION is torch.bfloat16):
            word_features = features_of(see, tokenizer, prompts).float()
            caption_features = features_of(see, tokenizer, captions).float()
        trust = torch.from_numpy(words.weights[chosen]).float()
        word_loss = place_loss(word_features, words.vectors[chosen], centre, trust)
        caption_loss = pair_loss(caption_features, pictures.features[rows], log_scale, captions)
        loss = word_loss + CAPTIONS_COUNT * caption_loss
        loss.backward()
        nn.utils.clip_grad_norm_(text.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            say(f"text step {step}: words {word_loss:.3f}, captions {caption_loss:.3f}")


def start_projection(model: CLIP, tokenizer: Tokenizer, words: Words) -> None:
    """Ridge regression from the untrained encoder's vectors."""
    vectors = sentence_encoder(model, tokenizer)(words.names)
    weighted = vectors * words.weights[:, None]
    gram = vectors.T @ weighted + 2.0 * np.eye(vectors.shape[1])
    solution = np.linalg.solve(gram, weighted.T @ words.vectors.numpy())
    with torch.no_grad():
        model.text.proj.weight.zero_()
        model.text.proj.weight[:, : len(gram)] = torch.from_numpy(solution.T)


def train_hidden(
    model: CLIP, tokenizer: Tokenizer, words: Words, pictures: Pictures, plan: Plan, say: Say
) -> None:
    """The second round, on what the encoder pools of each text, which is computed once."""
    text: Any = model.text
    encode = sentence_encoder(model, tokenizer)
    forms = [[in_template(form, name) for name in words.names] for form in FORMS]
    names = torch.stack([torch.from_numpy(encode(texts)) for texts in forms], dim=1)
    sentences, labels = told_and_named(pictures, plan)
    captions = encode([caption for row in sentences for caption in pictures.captions[row]])
    told = torch.from_numpy(captions).unflatten(0, (len(sentences), -1))  # [told, 5, width]
    said = [pictures.captions[row][0] for row in labels]
    named = torch.from_numpy(encode(said))
    say(f"{names.shape[0]} names in {names.shape[1]} forms, {len(captions)} captions")

    mean, deviation = names[:, 0].mean(dim=0), names[:, 0].std(dim=0)
    log_scale = torch.tensor(math.log(FIRST_SCALE), requires_grad=True)
    optimizer = torch.optim.AdamW(
        [
            {"params": [*text.hidden.parameters()], "lr": 2e-3, "weight_decay": 0.05},
            {"params": [text.proj.weight, log_scale], "lr": 1e-3, "weight_decay": 0.02},
        ],
        betas=(0.9, 0.98),
    )
    draw = np.random.default_rng(plan.seed)
    centre = words.vectors[: words.known].mean(dim=0)
    chances = np.sqrt(words.weights) / np.sqrt(words.weights).sum()

    def see(pooled: Tensor) -> Tensor:
        hidden = F.gelu(text.hidden((pooled - mean) / deviation))
        features: Tensor = text.proj(torch.cat([pooled, hidden], dim=1))
        return features

    for step in steps(plan.hidden_steps, optimizer):
        chosen = draw.choice(len(names), min(1024, len(names)), replace=False, p=chances)
        shown = see(names[chosen, draw.choice(len(FORMS), len(chosen), p=FORMS_CHANCES)])
        ones = draw.choice(len(told), min(384, len(told)), replace=False)
        others = draw.choice(len(named), min(96, len(named)), replace=False)
        texts = torch.cat([told[ones, draw.integers(0, told.shape[1], len(ones))], named[others]])
        rows = np.concatenate([sentences[ones], labels[others]])
        same = [*map(str, ones), *(said[row] for row in others)]
        trust = torch.from_numpy(words.weights[chosen]).float()
        word_loss = place_loss(shown, words.vectors[chosen], centre, trust)
        caption_loss = pair_loss(see(texts), pictures.features[rows], log_scale, same)
        (word_loss + CAPTIONS_COUNT * caption_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            say(f"hidden step {step}: words {word_loss:.3f}, captions {caption_loss:.3f}")
    with torch.no_grad():  # the tower does not know of `mean` and `deviation`
        text.hidden.weight /= deviation
        text.hidden.bias -= text.hidden.weight @ mean


def told_and_named(pictures: Pictures, plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the pictures with sentences, and of those with names that may be learned."""
    labels = ~pictures.described & ~_show(pictures.captions, plan.held_out)
    return np.flatnonzero(pictures.described), np.flatnonzero(labels)


def _show(captions: Sequence[tuple[str, ...]], names: frozenset[str]) -> NDArray[np.bool_]:
    """Which pictures are named by one of these."""
    return np.array([any(plain(one) in names for one in own) for own in captions], bool)
