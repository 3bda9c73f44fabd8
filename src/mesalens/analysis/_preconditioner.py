"""The step of preconditioned gradient descent that a layer takes."""

import jax
import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.learners.base import require
from mesalens.models import LinearTransformer


def learned_preconditioner(layer: LinearTransformer) -> Float[np.ndarray, "m d d"]:
    r"""P_k in the part `x_q^T P_k Σ_i y_ik x_i` of the k-th prediction of one linear layer.

    $$P_k^T = -\sum_h \left(b_{hk,y_k} A_{h,xx} + b_{hk,x} a_{h,y_k}^T\right)$$

    with b_hk the row of B_h that writes to output k and a the rows of A_h. Both ways of reading the
    block of S where labels meet inputs count: labels as values, and labels as keys. If the layer is
    optimal on a task whose functions f and -f are equally likely, it computes nothing else.

    Args:
        layer: A linear transformer of one layer.

    Returns:
        P_k for each output, of shape (m, d, d), in float64.

    Raises:
        ValueError: If the model is not a `LinearTransformer` of one layer.
    """
    require(layer, LinearTransformer, "learned_preconditioner")
    if layer.layers != 1:
        raise InputError(f"learned_preconditioner needs one layer; got layers={layer.layers}.")
    d, m = layer.dim, layer.outputs
    with jax.enable_x64(True):  # weights from population training are in float64
        A, B = (np.asarray(matrices[0], np.float64) for matrices in layer.effective())
    values = np.einsum("hkk,hac->kca", B[:, d:, d:], A[:, :d, :d])
    keys = np.einsum("hka,hkc->kca", B[:, d:, :d], A[:, d:, :d])
    return -(values + keys).reshape(m, d, d)
