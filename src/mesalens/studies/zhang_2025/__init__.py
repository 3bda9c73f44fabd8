"""Training Dynamics of In-Context Learning in Linear Attention, Zhang et al., 2025."""

from mesalens.studies.zhang_2025 import plateaus, equations, alignment  # isort: skip
from mesalens.studies.zhang_2025.study import STUDY

__all__ = ["STUDY", "alignment", "equations", "plateaus"]
