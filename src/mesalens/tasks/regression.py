"""`RegressionTask`: labels are values of a function plus noise."""

import equinox as eqx
import jax
import jax.numpy as jnp

from mesalens._fenced import fenced
from mesalens.checks import InputError, member
from mesalens.prompt import Prompt
from mesalens.tasks._own_parts import SHAPE, inputs, require_draws
from mesalens.tasks._stated_moments import require_noise_moments
from mesalens.tasks.base import FactoredTask, KeyArray, Targets
from mesalens.tasks.distractors import Distractors
from mesalens.tasks.noise.base import Noise
from mesalens.tasks.noise.gaussian import GaussianNoise


class RegressionTask(FactoredTask):
    r"""In-context regression: covariates, functions and noise are chosen independently.

    $$x_i \sim \text{covariates}, \quad f \sim \text{functions}, \quad
    y_i = f(x_i) + \text{noise}, \quad i = 1, \dots, n \text{ and the query}$$

    Then `distractors` replace some labels of the context, never the target. The target is the label
    of the query with its noise, so no learner has a risk below the variance of that noise.

    Attributes:
        covariates: The distribution of the inputs.
        functions: The prior of the functions.
        context_length: n, the number of examples in a prompt.
        noise: The law of the label noise. By default there is none.
        distractors: Labels that are replaced. By default none are.

    Raises:
        ValueError: If a factor is of the wrong kind, sizes differ, or there are more distractors
            than examples.

    Examples:
        >>> from mesalens import random, tasks
        >>> task = tasks.RegressionTask(
        ...     tasks.Gaussian(5),
        ...     tasks.LinearFunctions(5),
        ...     context_length=20,
        ...     noise=tasks.GaussianNoise(0.1),
        ... )
        >>> prompts, targets = task.sample(random.key(0), (100,))
        >>> prompts.xs.shape, prompts.ys.shape, targets.shape
        ((100, 20, 5), (100, 20, 1), (100, 1))
    """

    noise: Noise = eqx.field(default_factory=GaussianNoise, kw_only=True)
    distractors: Distractors = eqx.field(default_factory=Distractors, kw_only=True)

    def __check_init__(self):
        super().__check_init__()  # before the rest, which relies on it; Equinox would call it last
        noise = member("noise", self.noise, Noise)
        shape = (*SHAPE, self.outputs)
        require_draws(
            noise,
            f"(key, labels, xs), for labels of shape {shape},",
            lambda key: noise(key, jnp.zeros(shape), inputs(self.dim)),
            {"(*shape, n, outputs)": shape},
        )
        require_noise_moments(noise, self.covariates, self.outputs)
        count = member("distractors", self.distractors, Distractors).count
        n = self.context_length
        if isinstance(count, int) and count > n:
            raise InputError(f"distractors must be at most context_length={n}; got {count}.")

    def sample(self, key: KeyArray, shape: tuple[int, ...] = ()) -> tuple[Prompt, Targets]:
        """Independent prompts with leading axes `shape`, and the target of each, float32.

        One draw of a whole batch is faster than `jax.vmap` over keys, and equivalent.
        """
        covariate_key, function_key, noise_key, distractor_key = jax.random.split(key, 4)
        xs = fenced(self.covariates.prompts(covariate_key, shape, self.context_length + 1))
        ys = self.noise(noise_key, self.functions(function_key, xs), xs)
        context = self.distractors(distractor_key, ys[..., :-1, :])
        return Prompt(xs[..., :-1, :], context, xs[..., -1, :]), ys[..., -1, :]

    @property
    def sign_symmetric(self) -> bool:
        """Whether f and -f are equally likely and the noise is symmetric (distractors are)."""
        return self.functions.sign_symmetric and self.noise.symmetric

    @property
    def rotation_invariant(self) -> bool:
        """Whether covariates, functions and noise are all rotation-invariant."""
        factors = (self.covariates, self.functions, self.noise)
        return all(factor.rotation_invariant for factor in factors)
