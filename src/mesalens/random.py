"""Threefry with its rounds unrolled: the numbers of JAX's own generator, several times faster on a CPU.

A small model's training step spends most of its time on drawing prompts. JAX keeps the twenty rounds of Threefry-2x32
(Salmon et al., SC 2011) in a loop on CPUs; written out, they compile sooner and fuse with what uses the bits. Every function of
`jax.random` takes these keys.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry_prng_impl
from jaxtyping import Array, Float, Key, UInt32

from mesalens.checks import InputError, count, one_of

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


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
    if bit_width != 32:  # 64-bit floats and bytes are rare here: leave them to JAX
        return jax.random.bits(jax.random.wrap_key_data(key, impl="threefry2x32"), shape, f"uint{bit_width}")
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

FASTEST: dict[str, Generator] = {"cpu": "threefry"}
"""The fastest generator in a training step, by JAX's backend, where it was measured (docs/benchmarks.md); Threefry elsewhere."""


def key(seed: int, generator: Generator | None = None) -> Key[Array, ""]:
    """A key of the unrolled generator, or of another of JAX's; a drop-in for `jax.random.key`.

    `threefry` is unrolled. Splitting and folding give the keys of `jax.random`; 32-bit draws of an even number of words are those of
    `jax.random` with `jax_threefry_partitionable=False`, bit for bit. `rbg` and `unsafe_rbg` are XLA's own generators: in a `vmap` over keys
    they draw other numbers than without, and in another version of XLA perhaps too. Where none is given it is that in `FASTEST`.

    Raises `ValueError` for a seed below 0, or of more than 32 bits, of which JAX would drop the others; and for an unknown generator.
    """
    if count("the seed", seed, at_least=0) >= 2**32:
        raise InputError(f"the seed is {seed}; give a whole number below {2**32}.")
    if generator is None:
        generator = FASTEST.get(jax.default_backend(), "threefry")
    if one_of("generator", generator, get_args(Generator)) != "threefry":
        return jax.random.key(seed, impl=generator)
    # What JAX makes of such a seed, without compiling a program for it
    return jax.random.wrap_key_data(jnp.asarray(np.array([0, seed], np.uint32)), impl=_IMPLEMENTATION)


def generator_of(key: Key[Array, "..."]) -> str:
    """The name of a key's generator."""
    return "threefry" if str(jax.random.key_impl(unroll(key))) == "ufry" else str(jax.random.key_impl(key))


def measurement_key(seed: int, *place: int) -> Key[Array, ""]:
    """A key that no training from the same seed uses: those number their runs from 0, and this is number 2³² - 1.

    Each number of a place, as the part of a study and a setting in it, gives keys of its own.
    """
    measuring = key(seed)
    for number in (2**32 - 1, *place):
        measuring = jax.random.fold_in(measuring, np.uint32(number))
    return measuring


def unroll(key: Key[Array, "*shape"]) -> Key[Array, "*shape"]:
    """The same key for the unrolled generator; keys of other generators than Threefry stay as they are."""
    if jax.random.key_impl(key) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_IMPLEMENTATION)


def chi_squared(
    key: Key[Array, ""], degrees_of_freedom: float | int | Float[np.ndarray, "..."], shape: tuple[int, ...] = ()
) -> Float[Array, "*shape"]:
    """Independent draws of χ² with ν degrees of freedom, which broadcast to the shape: the exact law, by rejection.

    With δ = ν/2 - 1/3 and z ~ N(0, 1) the proposal is `2 δ (1 + u)³`, u = z / √(9δ), and the logarithm of the probability to accept it

        3 δ (log(1 + u) - u + u²/2 - u³/3),    u > -1:

    above 0.95 on average from ν = 2 on, near 1 where ν is large. All proposals are drawn at once, again and again until each place
    has accepted one, where `jax.random.chisquare` loops over the places one by one on a CPU. For ν < 2 it is the draw for ν + 2
    times U^{2/ν}, U uniform.

    Raises `ValueError` where ν is not above 0.

    Source: Marsaglia and Tsang, ACM Transactions on Mathematical Software 26 (2000).
    """
    nu = np.asarray(degrees_of_freedom, np.float64)
    if not (np.isfinite(nu) & (nu > 0)).all():
        raise InputError(f"the degrees of freedom are {degrees_of_freedom}; give numbers above 0.")
    dtype = jnp.result_type(float)
    delta = np.where(nu < 2, nu + 2, nu) / 2 - 1 / 3
    width = jnp.asarray(1 / np.sqrt(9 * delta), dtype)
    delta = jnp.asarray(delta, dtype)
    boost_key, key = jax.random.split(key)

    def propose(state):
        key, draws, accepted = state
        key, normal_key, exponential_key = jax.random.split(key, 3)
        u = jnp.maximum(width * jax.random.normal(normal_key, shape), -1)
        log_probability = 3 * delta * (jnp.log1p(u) - u + u**2 / 2 - u**3 / 3)
        draws = jnp.where(accepted, draws, 2 * delta * (1 + u) ** 3)
        return key, draws, accepted | (jax.random.exponential(exponential_key, shape) > -log_probability)

    start = (key, jnp.zeros(shape, dtype), jnp.zeros(shape, bool))
    _, draws, _ = jax.lax.while_loop(lambda state: ~state[2].all(), propose, start)
    if (nu >= 2).all():
        return draws
    uniform = 1 - jax.random.uniform(boost_key, shape)  # never 0
    return jnp.where(nu < 2, draws * uniform ** jnp.asarray(2 / nu, dtype), draws)
