from .base import AttentionKind as AttentionKind
from .heads import Attention as Attention
from .kernel import KernelAttention as KernelAttention
from .linear import LinearAttention as LinearAttention
from .relu import ReLUAttention as ReLUAttention
from .softmax import SoftmaxAttention as SoftmaxAttention
