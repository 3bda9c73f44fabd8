"""Random keys: JAX's own numbers, several times faster, by Threefry with its rounds unrolled.

A training step of a small model spends most of its time on drawing prompts. On CPUs JAX runs the
twenty rounds of Threefry-2x32 (Salmon et al., SC 2011) as a loop. Written out, they compile faster
and are fused with the code that uses the bits. Every function of `jax.random` takes these keys.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry_prng_impl
from jaxtyping import Array, Float, Key, UInt32

from mesalens.checks import InputError, count, one_of, random_key

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


@functools.partial(jax.jit, inline=True)  # traced once for each shape, and not called by name
def _threefry(key, x0, x1):
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x0, x1 = x0 + schedule[0], x1 + schedule[1]
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation)))
        x0 = x0 + schedule[(i + 1) % 3]
        x1 = x1 + schedule[(i + 2) % 3] + np.uint32(i + 1)
    return x0, x1


def _random_bits(key: UInt32[Array, "2"], bit_width: int, shape: tuple[int, ...]) -> Array:
    if bit_width != 32:  # 64-bit floats and bytes are rare in mesalens, so JAX draws them
        key = jax.random.wrap_key_data(key, impl="threefry2x32")
        return jax.random.bits(key, shape, f"uint{bit_width}")
    size = int(np.prod(shape))
    half = -(-size // 2)  # one call of the cipher gives two words
    counter = jax.lax.iota(np.uint32, half)
    words = jnp.concatenate(_threefry(key, counter, counter + np.uint32(half)))
    return words[:size].reshape(shape)


def _split(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "*shape 2"]:
    counter = jax.lax.iota(np.uint32, int(np.prod(shape))).reshape(shape)
    return jnp.stack(_threefry(key, jnp.zeros_like(counter), counter), axis=-1)


def _fold_in(key: UInt32[Array, "2"], data) -> UInt32[Array, "2"]:
    return jnp.stack(_threefry(key, jnp.zeros_like(data), data))


_IMPLEMENTATION = define_prng_impl(
    key_shape=threefry_prng_impl.key_shape,
    seed=threefry_prng_impl.seed,
    split=_split,
    fold_in=_fold_in,
    random_bits=_random_bits,
    name="unrolled_threefry2x32",
    tag="ufry",
)


Generator = Literal["threefry", "rbg", "unsafe_rbg"]
"""The name of a generator of random numbers."""

FASTEST: dict[str, Generator] = {"cpu": "threefry"}
"""The generator with the fastest training step for each JAX backend on which it was measured; see
the benchmarks. Other backends use Threefry.
"""


def key(seed: int, generator: Generator | None = None) -> Key[Array, ""]:
    """A random key, as from `jax.random.key`, for the unrolled generator or another one.

    Args:
        seed: An integer from 0 to 2³² - 1. (JAX would drop higher bits silently.)
        generator: By default the one in `FASTEST` for JAX's backend.

            - `threefry` is unrolled. Splitting and folding in give the keys of `jax.random`.
              32-bit draws of an even number of words are those of `jax.random` with
              `jax_threefry_partitionable=False`, bit for bit.
            - `rbg` and `unsafe_rbg` are XLA's own. In a `vmap` over keys their numbers differ from
              those of a loop, and another version of XLA may draw other numbers.

    Returns:
        The key, a JAX array of shape ().

    Raises:
        InputError: If the seed is out of range or the generator is unknown.

    Examples:
        >>> import jax
        >>> from mesalens import random
        >>> first, second = jax.random.split(random.key(0))
        >>> jax.random.normal(first, (3,)).shape
        (3,)
    """
    count("seed", seed, at_least=0, at_most=2**32 - 1)
    if generator is None:
        generator = FASTEST.get(jax.default_backend(), "threefry")
    if one_of("generator", generator, get_args(Generator)) != "threefry":
        return jax.random.key(seed, impl=generator)
    # The key data that JAX makes of a 32-bit seed, without compiling a program for it
    data = np.array([0, seed], np.uint32)
    return jax.random.wrap_key_data(jax.device_put(data), impl=_IMPLEMENTATION)


def generator_of(key: Key[Array, "..."]) -> str:
    """The name of a key's generator.

    Args:
        key: A random key or an array of keys.

    Returns:
        A name that `key` takes, such as `"threefry"`.
    """
    implementation = str(jax.random.key_impl(unroll(key)))
    return "threefry" if implementation == "ufry" else implementation


def measurement_key(seed: int, *place: int) -> Key[Array, ""]:
    """A key for measurements: training from the same seed never uses it.

    Runs of a training fold in their number, counted from 0. Measurements fold in 2³² - 1.

    Args:
        seed: As for `key`.
        *place: Integers that are folded in one after the other, so that each place (say, a part of
            a study and a setting in it) has its own key.

    Returns:
        The key.
    """
    folded = np.asarray([2**32 - 1, *place], np.uint32)
    return functools.reduce(jax.random.fold_in, folded, key(seed))


def unroll(key: Key[Array, "*shape"]) -> Key[Array, "*shape"]:
    """The same key for the unrolled generator.

    Args:
        key: A random key or an array of keys.

    Returns:
        The converted key if it is a Threefry key of JAX, otherwise `key` as it is.

    Raises:
        InputError: If it is not a random key.
    """
    if jax.random.key_impl(random_key(key)) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_IMPLEMENTATION)


def chi_squared(
    key: Key[Array, ""],
    degrees_of_freedom: float | int | Float[np.ndarray, "..."],
    shape: tuple[int, ...] = (),
) -> Float[Array, "*shape"]:
    r"""Independent exact draws of χ² with ν degrees of freedom, by rejection.

    With `δ = ν/2 - 1/3`, z ~ N(0, 1) and `u = z / √(9δ)`, the proposal is `2 δ (1 + u)³`. The
    logarithm of its acceptance probability is

    $$3 \delta \left(\log(1 + u) - u + \frac{u^2}{2} - \frac{u^3}{3}\right), \qquad u > -1.$$

    The mean acceptance probability is above 0.95 for ν ≥ 2, and near 1 for large ν. All proposals
    are drawn at once, and again until every entry has accepted one. (`jax.random.chisquare` loops
    over the entries on a CPU.) For ν < 2 a draw is one for ν + 2, times `U^(2/ν)` with U uniform.

    Args:
        key: A random key.
        degrees_of_freedom: ν > 0: one number for all draws, or an array that broadcasts to `shape`.
        shape: The shape of the result.

    Returns:
        The draws, float32 (float64 if JAX has it enabled).

    Raises:
        InputError: If a ν is not positive and finite.

    Source: Marsaglia and Tsang, ACM Transactions on Mathematical Software 26 (2000).
    """
    nu = np.asarray(degrees_of_freedom, np.float64)
    if not (np.isfinite(nu) & (nu > 0)).all():
        raise InputError(f"degrees_of_freedom must be positive; got {degrees_of_freedom}.")
    dtype = jnp.result_type(float)
    delta = np.where(nu < 2, nu + 2, nu) / 2 - 1 / 3
    width = jnp.asarray(1 / np.sqrt(9 * delta), dtype)
    delta = jnp.asarray(delta, dtype)
    boost_key, key = jax.random.split(key)

    def propose(state):
        key, draws, accepted = state
        key, normal_key, exponential_key = jax.random.split(key, 3)
        u = jnp.maximum(width * jax.random.normal(normal_key, shape), -1)  # log1p(-1) rejects
        log_probability = 3 * delta * (jnp.log1p(u) - u + u**2 / 2 - u**3 / 3)
        draws = jnp.where(accepted, draws, 2 * delta * (1 + u) ** 3)
        accepted |= jax.random.exponential(exponential_key, shape) > -log_probability
        return key, draws, accepted

    start = (key, jnp.zeros(shape, dtype), jnp.zeros(shape, bool))
    _, draws, _ = jax.lax.while_loop(lambda state: ~state[2].all(), propose, start)
    if (nu >= 2).all():
        return draws
    uniform = 1 - jax.random.uniform(boost_key, shape)  # in (0, 1]: 0 would give a draw of 0
    return jnp.where(nu < 2, draws * uniform ** jnp.asarray(2 / nu, dtype), draws)
