"""Transformers that learn in context."""

from mesalens.models.attention import Attention as Attention
from mesalens.models.embedding import Embedding as Embedding
from mesalens.models.feature_descent import FeatureDescent as FeatureDescent
from mesalens.models.linear_transformer import LinearTransformer as LinearTransformer
from mesalens.models.positions import Learned as Learned
from mesalens.models.positions import Positions as Positions
from mesalens.models.positions import Sinusoidal as Sinusoidal
from mesalens.models.tokens import Interleaved as Interleaved
from mesalens.models.tokens import Joint as Joint
from mesalens.models.tokens import Tokens as Tokens
from mesalens.models.transformer import Transformer as Transformer
from mesalens.models.transformer import TransformerLayer as TransformerLayer
