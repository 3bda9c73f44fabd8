"""`Mixture`: each prompt comes from one of several tasks."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import InputError, member
from mesalens.prompt import AnyPrompt
from mesalens.tasks.base import KeyArray, Targets, Task


def _shares(values: Sequence[float] | Float[Array | np.ndarray, " K"] | None):
    return None if values is None else np.asarray(values, np.float64)


class Mixture(Task):
    """A mixture of tasks: each prompt comes from task k with probability π_k.

    Examples and query of a prompt share the component, which a learner does not see. Moments of
    prompts are linear in their law, so that those of a mixture are `Σ_k π_k` times those of its
    components. Hence optimum, certificate, exact risk and population training work for mixtures as
    for their components.

    Attributes:
        components: Tasks of the same sizes.
        probabilities: π_k, positive with sum 1. Uniform by default.

    Raises:
        ValueError: If there is no component, sizes differ, or there is not one positive
            probability per component with sum 1.

    Examples:
        Three quarters of the prompts have inputs at scale 1, and the others at scale 2:

        >>> from mesalens import random, tasks
        >>> functions = tasks.LinearFunctions(3)
        >>> parts = [
        ...     tasks.RegressionTask(tasks.Gaussian(3, scale), functions, context_length=8)
        ...     for scale in (1.0, 2.0)
        ... ]
        >>> task = tasks.Mixture(parts, [0.75, 0.25])
        >>> prompts, targets = task.sample(random.key(0), (100,))
        >>> prompts.xs.shape
        (100, 8, 3)
    """

    components: tuple[Task, ...] = eqx.field(converter=tuple)
    probabilities: Float[np.ndarray, " K"] = eqx.field(converter=_shares, default=None)  # pyright: ignore

    def __post_init__(self):
        if self.probabilities is None and self.components:
            self.probabilities = np.full(len(self.components), 1 / len(self.components))

    def __check_init__(self):
        if not self.components:
            raise InputError("components must contain at least one task; got none.")
        for component in self.components:
            sizes = member("components", component, Task).sizes
            if sizes != self.components[0].sizes:
                raise InputError(
                    f"components must have the same sizes; got {self.components[0].sizes} and "
                    f"{sizes}."
                )
        kinds = {str(jax.eval_shape(each.sample, jax.random.key(0))) for each in self.components}
        if len(kinds) > 1:
            raise InputError(
                "components must draw prompts of the same kind and shape; condense all or none."
            )
        shares = self.probabilities
        if shares.shape != (len(self.components),):
            raise InputError(
                f"probabilities must have length {len(self.components)}, one for each component; "
                f"got {shares.tolist()}."
            )
        if not (np.isfinite(shares).all() and (shares > 0).all() and abs(shares.sum() - 1) < 1e-9):
            raise InputError(
                f"probabilities must be positive and add to 1; got {shares.tolist()} with the sum "
                f"{shares.sum():.6g}."
            )

    @property
    def dim(self) -> int:
        """d, the number of entries of a covariate."""
        return self.components[0].dim

    @property
    def outputs(self) -> int:
        """m, the number of entries of a label."""
        return self.components[0].outputs

    @property
    def context_length(self) -> int:
        """n, the number of examples in a prompt."""
        return self.components[0].context_length

    def sample(self, key: KeyArray, shape: tuple[int, ...] = ()) -> tuple[AnyPrompt, Targets]:
        """Independent prompts with leading axes `shape`, and the target of each, float32.

        Every component draws all prompts, and one of each is taken.
        """
        choice_key, *keys = jax.random.split(key, 1 + len(self.components))
        shares = jnp.asarray(self.probabilities, jnp.float32)
        chosen = jax.random.choice(choice_key, len(keys), shape, p=shares)
        drawn = [each.sample(k, shape) for each, k in zip(self.components, keys, strict=True)]

        def choose(*leaves: Array) -> Array:
            place = chosen.reshape(shape + (1,) * (leaves[0].ndim - len(shape)))
            return jax.lax.select_n(jnp.broadcast_to(place, leaves[0].shape), *leaves)

        return jax.tree.map(choose, *drawn)

    @property
    def sign_symmetric(self) -> bool:
        """Whether all components are sign-symmetric."""
        return all(each.sign_symmetric for each in self.components)

    @property
    def rotation_invariant(self) -> bool:
        """Whether all components are rotation-invariant."""
        return all(each.rotation_invariant for each in self.components)
