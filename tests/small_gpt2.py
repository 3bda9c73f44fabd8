"""A small transformer in PyTorch that learned linear regression in context.

Its architecture is that of GPT-2, with the tokens of Garg et al. (2022), x₁, y₁, x₂, …, x_query,
each padded to d entries. `train_small_gpt2.py` has trained it.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

DIM = 3
CONTEXT_LENGTH = 8
NOISE_VARIANCE = 0.01
WEIGHTS = Path(__file__).parent / "data" / "small_gpt2.safetensors"


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, h):
        B, T, width = h.shape
        q, k, v = self.qkv(self.norm_1(h)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.out(seen.transpose(1, 2).reshape(B, T, width))
        return h + self.mlp(self.norm_2(h))


class SmallGPT2(nn.Module):
    """Reads tokens (B, T, d) and returns a prediction at every token, (B, T)."""

    def __init__(self, dim=DIM, width=64, layers=4, heads=4, positions=2 * CONTEXT_LENGTH + 1):
        super().__init__()
        self.read_in = nn.Linear(dim, width)
        self.positions = nn.Parameter(0.02 * torch.randn(positions, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.read_out = nn.Linear(width, 1)

    def forward(self, tokens):
        h = self.read_in(tokens) + self.positions[: tokens.shape[1]]
        return self.read_out(self.norm(self.blocks(h)))[..., 0]


def model() -> SmallGPT2:
    """The trained model, in evaluation mode."""
    trained = SmallGPT2()
    trained.load_state_dict(load_file(WEIGHTS))
    return trained.eval()
