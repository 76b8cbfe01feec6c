"""The text tower of the bundled model: what MiniLM learns beyond sentences.

Names go where `words.py` has them, captions to what the teacher saw in their pictures; and what a
picture is called is to be nearer to it than what it is not. In two rounds:

1. The encoder learns, but for its word embeddings: a word that is in no lesson keeps its place
   among its like.
2. A hidden layer after it learns alone, from what the encoder pools.
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

from recipes.twotower_small.hypernyms import look_up_kinds, rare_more_often
from recipes.twotower_small.losses import (
    PRECISION,
    Pictures,
    Plan,
    Say,
    Words,
    answer_loss,
    features_of,
    in_template,
    pair_loss,
    place_loss,
    sentence_encoder,
    steps,
)
from recipes.twotower_small.wordnet import WordNet, plain
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP

CAPTIONS_COUNT, NAMES_COUNT = 0.7, 0.5  # beside places
FIRST_SCALE, HIDDEN_SCALE = 40.0, 60.0  # of the logits between texts and pictures; learned on
# In the second round what the encoder pools is blurred by so many deviations, or names would be
# learned by heart, and be worse for pictures; of what was learned so much is taken over, which does
# better on both what it was told and what it was not (WiSE-FT; Wortsman et al. 2022).
NOISE, DROPOUT, LEARNED = 0.5, 0.2, 0.25
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
    model: CLIP,
    tokenizer: Tokenizer,
    words: Words,
    pictures: Pictures,
    wordnet: WordNet,
    plan: Plan,
    say: Say,
) -> None:
    """Both rounds."""
    start_projection(model, tokenizer, words)
    train_encoder(model, tokenizer, words, pictures, plan, say)
    train_hidden(model, tokenizer, words, pictures, wordnet, plan, say)


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
    model: CLIP,
    tokenizer: Tokenizer,
    words: Words,
    pictures: Pictures,
    wordnet: WordNet,
    plan: Plan,
    say: Say,
) -> None:
    """The second round, on what the encoder pools of each text, which is computed once."""
    text: Any = model.text
    encode = sentence_encoder(model, tokenizer)

    def in_forms(names: Sequence[str]) -> Tensor:
        rows = [encode([in_template(form, name) for name in names]) for form in FORMS]
        return torch.from_numpy(np.stack(rows, axis=1))  # [n, forms, width]

    sentences, labels = told_and_named(pictures, plan)
    kinds, called = look_up_kinds(words, wordnet, [pictures.captions[row] for row in labels])
    placed, names = in_forms(words.names), in_forms(kinds.names)
    captions = encode([caption for row in sentences for caption in pictures.captions[row]])
    told = torch.from_numpy(captions).unflatten(0, (len(sentences), -1))  # [told, 5, width]
    say(f"{len(placed)} words, {len(captions)} captions, {len(labels)} pictures with names")

    before = text.proj.weight.detach().clone()
    mean, deviation = placed[:, 0].mean(dim=0), placed[:, 0].std(dim=0)
    scales = torch.full((2,), math.log(HIDDEN_SCALE), requires_grad=True)
    optimizer = torch.optim.AdamW(
        [
            {"params": [*text.hidden.parameters()], "lr": 2e-3, "weight_decay": 0.05},
            {"params": [text.proj.weight, scales], "lr": 1e-3, "weight_decay": 0.02},
        ],
        betas=(0.9, 0.98),
    )
    draw = np.random.default_rng(plan.seed)
    centre = words.vectors[: words.known].mean(dim=0)
    chances = np.sqrt(words.weights) / np.sqrt(words.weights).sum()
    often = rare_more_often(called)

    def see(pooled: Tensor) -> Tensor:
        noisy = (pooled - mean) / deviation + NOISE * torch.randn_like(pooled)
        hidden = F.dropout(F.gelu(text.hidden(noisy)), DROPOUT)
        features: Tensor = text.proj(torch.cat([noisy * deviation + mean, hidden], dim=1))
        return features

    def in_a_form(texts: Tensor, rows: Any) -> Tensor:
        return see(texts[rows, draw.choice(len(FORMS), len(rows), p=FORMS_CHANCES)])

    def name_loss() -> Tensor:
        some = draw.choice(len(labels), min(384, len(labels)), p=often)
        own = called[some]
        right = torch.tensor([kinds.also(int(row), draw) for row in own])
        others = torch.from_numpy(draw.choice(len(names), min(1200, len(names)), replace=False))
        among, place = torch.cat([own, right, others]).unique(return_inverse=True)
        place = place[len(own) : 2 * len(own)]  # of what is right
        embeds = F.normalize(in_a_form(names, among), dim=-1)
        every = torch.zeros(len(names), embeds.shape[1])
        every[among] = embeds.detach()
        same = kinds.same(own, right, every, among)
        seen = pictures.features[labels[some]]
        return answer_loss(seen, embeds, place, same, scales[1].exp().clamp(max=100))

    for step in steps(plan.hidden_steps, optimizer):
        chosen = draw.choice(len(placed), min(1024, len(placed)), replace=False, p=chances)
        trust = torch.from_numpy(words.weights[chosen]).float()
        word_loss = place_loss(in_a_form(placed, chosen), words.vectors[chosen], centre, trust)
        ones = draw.choice(len(told), min(384, len(told)), replace=False)
        texts = told[ones, draw.integers(0, told.shape[1], len(ones))]
        features = pictures.features[sentences[ones]]
        caption_loss = pair_loss(see(texts), features, scales[0], [str(row) for row in ones])
        named = name_loss()
        (word_loss + CAPTIONS_COUNT * caption_loss + NAMES_COUNT * named).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            losses = f"words {word_loss:.3f}, captions {caption_loss:.3f}, names {named:.3f}"
            say(f"hidden step {step}: {losses}")
    with torch.no_grad():
        text.proj.weight.lerp_(before, 1 - LEARNED)
        # The tower does not know of `mean` and `deviation`.
        text.hidden.weight /= deviation
        text.hidden.bias -= text.hidden.weight @ mean


def told_and_named(pictures: Pictures, plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the pictures with sentences, and of those with names that may be learned."""
    labels = ~pictures.described & ~_show(pictures.captions, plan.held_out)
    return np.flatnonzero(pictures.described), np.flatnonzero(labels)


def _show(captions: Sequence[tuple[str, ...]], names: frozenset[str]) -> NDArray[np.bool_]:
    """Which pictures are named by one of these."""
    return np.array([any(plain(one) in names for one in own) for own in captions], bool)
