"""What a user of mesalens writes: a member of every open axis, from public names alone. `test_openness.py` uses it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mesalens import Learner, Prompt
from mesalens.models import AttentionKind, LinearWeights, Positions, Tokens, Visibility
from mesalens.tasks import Covariates, Functions, Noise, Task
from mesalens.training import Optimiser, SampledObjective, StoppingRule


class TwoClusters(Covariates):
    """x = scale (±separation u + z), z ~ N(0, I) and u the unit vector along (1, …, 1)."""

    separation: float = 1.0

    def sample(self, key, shape=()):
        sign_key, normal_key = jax.random.split(key)
        sign = jax.random.rademacher(sign_key, (*shape, 1), jnp.float32)
        centre = self.separation / self.dim**0.5  # in jax.numpy alone: JAX traces what is varied
        return self.scale * (sign * centre + jax.random.normal(normal_key, (*shape, self.dim)))

    def second_moment(self):
        return self.scale**2 * (np.eye(self.dim) + self.separation**2 / self.dim)

    def fourth_moment(self, weight):
        centre, eye = np.full(self.dim, self.separation / self.dim**0.5), np.eye(self.dim)
        outer = np.outer(centre, centre)
        moment = (centre @ weight @ centre + np.trace(weight)) * (eye + outer)
        return self.scale**4 * (moment + 2 * (weight + weight @ outer + outer @ weight))


class UniformNoise(Noise):
    """ε ~ U[-width, width]."""

    width: float = 1.0

    def __call__(self, key, labels, xs):
        return labels + jax.random.uniform(key, labels.shape, minval=-self.width, maxval=self.width)

    def conditional_variance(self, dim):
        return self.width**2 / 3, np.zeros((dim, dim))

    def fourth_cumulant(self):
        return self.width**4 * (1 / 5 - 3 / 9)

    @property
    def symmetric(self):
        return True

    @property
    def homoscedastic(self):
        return True


class Quadratics(Functions):
    """f(x) = scale (x^T Q x / d + linear w · x), entries of Q and w standard normal."""

    linear: float = eqx.field(default=1.0, kw_only=True)

    def __call__(self, key, xs):
        quadratic_key, linear_key = jax.random.split(key)
        shape = (*xs.shape[:-2], self.outputs, self.dim)
        Q = jax.random.normal(quadratic_key, (*shape, self.dim)) / self.dim
        w = self.linear * jax.random.normal(linear_key, shape)
        return self.scale * (
            jnp.einsum("...nd,...mde,...ne->...nm", xs, Q, xs)
            + jnp.einsum("...nd,...md->...nm", xs, w)
        )

    @property
    def sign_symmetric(self):
        return True


class SparseRegression(Task):
    """y = w · x for w with `nonzero` standard normal entries at random places, and no noise."""

    dim: int = eqx.field(static=True)
    context_length: int = eqx.field(static=True)
    nonzero: int = eqx.field(static=True, default=1)

    @property
    def outputs(self):
        return 1

    def sample(self, key, shape=()):
        input_key, weight_key, place_key = jax.random.split(key, 3)
        xs = jax.random.normal(input_key, (*shape, self.context_length + 1, self.dim))
        order = jnp.argsort(jax.random.uniform(place_key, (*shape, self.dim)), axis=-1)
        weights = jnp.where(
            order < self.nonzero, jax.random.normal(weight_key, (*shape, self.dim)), 0
        )
        ys = jnp.einsum("...nd,...d->...n", xs, weights)[..., None]
        return Prompt(xs[..., :-1, :], ys[..., :-1, :], xs[..., -1, :]), ys[..., -1, :]


class PolynomialAttention(AttentionKind):
    """`a_ji = (q_j · k_i / √K)^degree`, over the number of rows that are keys."""

    degree: int = eqx.field(static=True, default=2)

    def weights(self, scores, seen, key_size):
        powers = (scores / key_size**0.5) ** self.degree / scores.shape[-1]
        return powers if seen is None else jnp.where(seen, powers, 0)


def laplace_kernel(query, key):
    """A kernel, for `KernelAttention`."""
    return jnp.exp(-jnp.sum(jnp.abs(query - key)))


class Window(Visibility):
    """Every row sees itself and at most `length - 1` rows before."""

    length: int = eqx.field(static=True, default=2)

    def keys(self, rows):
        return rows

    def seen(self, rows):
        distance = jnp.arange(rows)[:, None] - jnp.arange(rows)
        return (distance >= 0) & (distance < self.length)


class LabelFirst(Tokens):
    """The rows of an example are `(x_i, y_i)`, in reverse order."""

    def context(self, prompt):
        return jnp.concatenate([prompt.xs, prompt.ys], axis=1)[::-1]

    def rows(self, context_length):
        return context_length + 1

    def prompt(self, rows, *, outputs=1):
        context, d = rows[-2::-1], rows.shape[1] - outputs
        return Prompt(context[:, :d], context[:, d:], rows[-1, :d])


class Countdown(Positions):
    """One number for each row: how many rows come behind it, over a length."""

    length: float = eqx.field(static=True, default=10.0)

    @property
    def size(self):
        return 1

    def __call__(self, rows):
        return jnp.arange(rows)[::-1, None] / self.length


class Diagonal(LinearWeights):
    """A and B are diagonal, of width d + m."""

    a: jax.Array
    b: jax.Array

    @classmethod
    def initialise(cls, sizes, *, spread: float = 1.0, scale, key):
        shape = (2, sizes.stored, sizes.heads, sizes.dim + sizes.outputs)
        return cls(*(spread * jnp.sqrt(scale) * jax.random.normal(key, shape)))

    def effective(self):
        eye = jnp.eye(self.a.shape[-1], dtype=self.a.dtype)
        return self.a[..., None] * eye, self.b[..., None] * eye


class Smoother(Learner):
    """Nadaraya-Watson regression with a trained width for each entry of x."""

    log_widths: jax.Array

    @classmethod
    def initialise(cls, dim, *, width: float = 1.0, key):
        return cls(jnp.log(width) + 0.1 * jax.random.normal(key, (dim,)))

    def __call__(self, prompt):
        distances = (prompt.xs - prompt.query) * jnp.exp(-self.log_widths)
        return jax.nn.softmax(-jnp.sum(distances**2, axis=-1) / 2) @ prompt.ys


class Huber(SampledObjective):
    """Quadratic for errors up to `delta`, linear beyond."""

    delta: float = 1.0

    def terms(self, predictions, targets):
        return jnp.sum(optax.losses.huber_loss(predictions, targets, delta=self.delta), axis=-1)


class Lion(Optimiser):
    """Lion, whose steps have entries ± learning_rate."""

    learning_rate: float = 1e-2

    def transformation(self, steps):
        return optax.lion(self.learning_rate)


class AfterMeasurements(StoppingRule):
    """A run has converged once it has been measured so many times."""

    def __init__(self, times: int = 1):
        self.times = times

    def reached(self, metrics):
        runs, points = metrics["loss"].shape
        return np.full(runs, points > self.times)

    def words(self):
        return f"after {self.times} measurements"


def numpy_ridge(xs, ys, queries):
    """Ridge regression on a batch of prompts, in NumPy."""
    gram = np.swapaxes(xs, 1, 2) @ xs + 0.5 * np.eye(xs.shape[2])
    weights = np.linalg.solve(gram, np.swapaxes(xs, 1, 2) @ ys)
    return np.einsum("bd,bdm->bm", queries, weights)


def numpy_zeros(xs, ys, queries):
    """Predictions of 0 for a batch of prompts."""
    return np.zeros((len(queries), ys.shape[-1]))
