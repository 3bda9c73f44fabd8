"""The step of preconditioned gradient descent that a layer takes."""

import jax
import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.models import LinearTransformer


def learned_preconditioner(layer: LinearTransformer) -> Float[np.ndarray, "m d d"]:
    """P_k of the part `x_q^T P_k Σ_i y_ik x_i` of the k-th prediction of one layer of linear self-attention.

        P_k^T = -Σ_h (b_hk,y_k A_h,xx + b_hk,x a_h,y_k^T),      b_hk the row of B_h that writes to output k, A_h's rows a

    Both ways to read the block of S in which labels meet inputs count: labels as values, and labels as keys. Where the layer is
    optimal on a task whose functions f and -f are equally likely, this is all that it computes.

    Raises `ValueError` for more than one layer.
    """
    if layer.layers != 1:
        raise InputError(f"the model has {layer.layers} layers; one layer takes a step that can be read off.")
    d, m = layer.dim, layer.outputs
    with jax.enable_x64(True):  # weights from population training are in float64
        A, B = (np.asarray(matrices[0], np.float64) for matrices in layer.effective())
    values = np.einsum("hkk,hac->kca", B[:, d:, d:], A[:, :d, :d])
    keys = np.einsum("hka,hkc->kca", B[:, d:, :d], A[:, d:, :d])
    return -(values + keys).reshape(m, d, d)
