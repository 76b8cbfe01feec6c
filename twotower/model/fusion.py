"""A head that answers questions on top of frozen towers: question tokens look at a picture's cells.

HEAD/head.json           sizes, answers, and which model it belongs to
HEAD/head.safetensors    weights, float16
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from twotower.model.layers import merge_heads, split_heads

CONFIG_FILE, WEIGHTS_FILE = "head.json", "head.safetensors"


class HeadError(ValueError):
    """A head that cannot be read or does not fit; the message says which."""


@dataclass(frozen=True)
class FusionConfig:
    """Sizes of a head, its answers, and the model that it was trained on (`model`, a hash)."""

    model: str
    answers: tuple[str, ...]
    vision_width: int
    text_width: int
    cells: int
    width: int = 96
    layers: int = 2
    heads: int = 4


class FusionHead(nn.Module):
    """Cross-attention from question tokens to cells, then a classifier over answers."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cell_proj = nn.Linear(config.vision_width, width)
        self.pos_embed = nn.Parameter(torch.randn(config.cells, width) * 0.02)
        self.ln_cells = nn.LayerNorm(width)
        self.token_proj = nn.Linear(config.text_width, width)
        self.ln_tokens = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(FusionBlock(width, config.heads) for _ in range(config.layers))
        self.ln_final = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, len(config.answers))

    def forward(self, cells: Tensor, tokens: Tensor, real: Tensor, picture: Tensor) -> Tensor:
        """Logits of the answers [Q, answers].

        Args:
            cells: of P pictures [P, cells, vision_width].
            tokens: of Q questions [Q, L, text_width]; `real` [Q, L] is False where padded.
            picture: which of the P each question is about [Q].
        """
        seen = self.ln_cells(self.cell_proj(cells) + self.pos_embed)[picture]  # [Q, cells, width]
        x = self.ln_tokens(self.token_proj(tokens))  # [Q, L, width]
        for block in self.blocks:
            x = block(x, seen)
        weight = real.to(x.dtype).unsqueeze(-1)
        pooled = (self.ln_final(x) * weight).sum(dim=1) / weight.sum(dim=1)
        return self.classifier(pooled)


class FusionBlock(nn.Module):
    """Tokens look at the cells, then think: pre-norm, residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """x: [Q, L, width]; seen: [Q, cells, width] -> [Q, L, width]"""
        (q,) = split_heads(self.q(self.ln_1(x)), 1, self.heads)
        k, v = split_heads(self.kv(seen), 2, self.heads)
        x = x + self.out(merge_heads(F.scaled_dot_product_attention(q, k, v)))
        return x + self.fc2(F.gelu(self.fc1(self.ln_2(x))))


def save_head(head: FusionHead, directory: Path) -> None:
    """Write a head into a folder that is there."""
    halves = {name: one.detach().half().contiguous() for name, one in head.state_dict().items()}
    save_file(halves, directory / WEIGHTS_FILE)
    text = json.dumps(asdict(head.config), indent=1, ensure_ascii=False)
    (directory / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def load_head(directory: Path) -> FusionHead:
    """Read a head, in float32 and evaluation mode.

    Raises:
        HeadError: a file is missing or damaged, or they do not belong together.
    """
    try:
        tree = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        config = FusionConfig(**{**tree, "answers": tuple(tree["answers"])})
        tensors = load_file(directory / WEIGHTS_FILE)
        head = FusionHead(config)
        head.load_state_dict({name: one.float() for name, one in tensors.items()})
    except FileNotFoundError as error:
        raise HeadError(
            f"{error.filename or directory}: no such file; make a head with: twotower train vqa"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise HeadError(
            f"{directory}: not a head of twotower's, or a damaged one ({first})"
        ) from None
    return head.eval()
