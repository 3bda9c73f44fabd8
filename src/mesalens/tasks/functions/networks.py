"""Random networks with one hidden layer."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from mesalens.checks import count, finite, one_of
from mesalens.tasks.functions.base import Functions, Inputs, KeyArray, Labels
from mesalens.tasks.functions.linear import LinearFunctions

# φ, and whether it is odd
ACTIVATIONS: dict[str, tuple[Callable[[jax.Array], jax.Array], bool]] = {
    "abs": (jnp.abs, False),
    "erf": (jax.scipy.special.erf, True),
    "gelu": (lambda u: jax.nn.gelu(u, approximate=False), False),
    "identity": (lambda u: u, True),
    "relu": (jax.nn.relu, False),
    "sigmoid": (jax.nn.sigmoid, False),
    "sin": (jnp.sin, True),
    "softplus": (jax.nn.softplus, False),
    "tanh": (jnp.tanh, True),
}


class TwoLayerNetworks(Functions):
    r"""Random networks with one hidden layer of H units.

    $$f(x)_k = \frac{\text{scale}}{\sqrt H} \sum_h a_{hk} \, \varphi(w_h \cdot x), \qquad
    w_h \sim N(0, I / d), \qquad a_{hk} \sim N(\text{readout mean}, 1)$$

    The m entries of f(x) share the hidden layer. With ReLU and readout mean 0 these are the
    networks of Garg et al. (2022), up to scale. Rotation-invariant; sign-symmetric if the readout
    mean is 0 or φ is odd.

    Attributes:
        dim: d, the number of entries of an input.
        outputs: m, the number of entries of a value.
        scale: A factor of every value.
        hidden: H, the number of hidden units.
        activation: φ: `"abs"`, `"erf"`, `"gelu"`, `"identity"`, `"relu"`, `"sigmoid"`, `"sin"`,
            `"softplus"` or `"tanh"`.
        readout_mean: The mean of a_hk.

    Raises:
        ValueError: If `hidden` is below 1, `activation` is unknown, or `readout_mean` is not
            finite.
    """

    hidden: int = eqx.field(static=True, default=32, kw_only=True)
    activation: str = eqx.field(static=True, default="relu", kw_only=True)
    readout_mean: float = eqx.field(static=True, default=0.0, kw_only=True)

    rotation_invariant = True

    def __check_init__(self):
        count("hidden", self.hidden)
        one_of("activation", self.activation, ACTIVATIONS)
        finite("readout_mean", self.readout_mean)

    def __call__(self, key: KeyArray, xs: Inputs) -> Labels:
        hidden_key, readout_key = jax.random.split(key)
        activation, _ = ACTIVATIONS[self.activation]
        projections = LinearFunctions(self.dim, self.hidden, scale=self.dim**-0.5)(hidden_key, xs)
        units = activation(projections)
        shape = (*xs.shape[:-2], self.outputs, self.hidden)
        readout = self.readout_mean + jax.random.normal(readout_key, shape)
        return self.scale * self.hidden**-0.5 * jnp.einsum("...nh,...mh->...nm", units, readout)

    @property
    def sign_symmetric(self) -> bool:
        _, odd = ACTIVATIONS[self.activation]
        return self.readout_mean == 0 or odd
