"""Structures of the weights of linear self-attention: free parameters, and their A and B."""

from mesalens.models.weights.base import Effective as Effective
from mesalens.models.weights.base import LinearWeights as LinearWeights
from mesalens.models.weights.base import Sizes as Sizes
from mesalens.models.weights.factors import Factors as Factors
from mesalens.models.weights.merged import Merged as Merged
from mesalens.models.weights.scalars import Scalars as Scalars
from mesalens.models.weights.sparse import Sparse as Sparse
