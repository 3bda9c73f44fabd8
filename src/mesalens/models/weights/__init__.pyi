from .base import Effective as Effective
from .base import LinearWeights as LinearWeights
from .base import Sizes as Sizes
from .factors import Factors as Factors
from .merged import Merged as Merged
from .scalars import Scalars as Scalars
from .sparse import Sparse as Sparse
