"""Attention: heads, and the kinds of weights with which a row attends to others."""

from mesalens.models.attention.base import AttentionKind as AttentionKind
from mesalens.models.attention.heads import Attention as Attention
from mesalens.models.attention.kernel import KernelAttention as KernelAttention
from mesalens.models.attention.linear import LinearAttention as LinearAttention
from mesalens.models.attention.relu import ReLUAttention as ReLUAttention
from mesalens.models.attention.softmax import SoftmaxAttention as SoftmaxAttention
