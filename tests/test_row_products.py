"""Maps of rows as one product: the numbers of Equinox's layers, and no transposed results."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mesalens.models.row_products import by_rows

KEY = jax.random.key(0)


@eqx.filter_jit
def both(part, rows):
    return [jax.vmap(jax.vmap(layers))(rows) for layers in (by_rows(part), part)]


@pytest.mark.parametrize(
    "part",
    [
        lambda: eqx.nn.Linear(3, 5, use_bias=False, key=KEY),
        lambda: eqx.nn.MLP(3, 5, 4, depth=2, activation=jnp.tanh, key=KEY),
        lambda: eqx.nn.MLP(3, 5, 4, depth=3, use_final_bias=False, scan=True, key=KEY),
    ],
    ids=["no bias", "MLP", "scanned MLP"],
)
def test_it_is_the_same_map(part):
    rows = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    found, expected = both(part(), rows)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_neither_results_nor_gradients_are_transposed():
    rows, mlp = jnp.ones((2, 7, 3)), eqx.nn.MLP(3, 5, 4, depth=1, key=KEY)

    def transposed(of):
        def loss(mlp):
            return jnp.sum(jax.vmap(jax.vmap(of(mlp)))(rows) ** 2)

        program = jax.make_jaxpr(jax.grad(loss))(eqx.filter(mlp, eqx.is_array))
        calls = [e.primitive.name for e in program.eqns if e.invars[0].aval.ndim > 2]
        return calls.count("transpose")

    def mlp_of(arrays):
        return eqx.combine(arrays, eqx.filter(mlp, eqx.is_array, inverse=True))

    assert transposed(lambda arrays: by_rows(mlp_of(arrays))) == 0 < transposed(mlp_of)
