"""Transformers that learn in context."""

from mesalens.models.linear_transformer import LinearTransformer as LinearTransformer
from mesalens.models.tokens import joint_tokens as joint_tokens
