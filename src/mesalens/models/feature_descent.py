"""`FeatureDescent`: gradient descent on learned features."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.learners import GradientDescent
from mesalens.learners.base import IterativeLearner
from mesalens.models.embedding import Embedding
from mesalens.models.tokens import Joint, require_sizes
from mesalens.prompt import Prompt


class FeatureDescent(IterativeLearner):
    """Gradient descent on the features that an embedding makes of joint tokens.

        h_i = Embedding(x_i, y_i) = (φ_i, t_i),   h_q = Embedding(x_q, 0) = (φ_q, t_q)
        W_k = k steps of descent on 1/(2n) Σ_i ‖W φ_i - t_i‖² from W_0,     ŷ = W_k φ_q - t_q

    with t the y-part of a row. If descent starts at 0, the prediction before the first step is
    `-t_q`, what the embedding alone says, and this is a transformer with the same embedding whose
    attention has the weights of `mesalens.theory.gradient_descent_transformer`. Training changes
    the embedding and the rates.

    Raises:
        ValueError: for a prompt with another number of outputs.

    Source: von Oswald et al. (2023), Section 4, Proposition 2 and Figure 4.
    """

    fixed = tuple(f"descent.{name}" for name in GradientDescent.fixed)

    embedding: Embedding
    descent: GradientDescent
    outputs: int = eqx.field(static=True, default=1)

    def features(self, prompt: Prompt) -> tuple[Prompt, Float[Array, " m"]]:
        """The prompt of features `(φ_i, t_i)`, φ_q, and t_q."""
        require_sizes(prompt, prompt.dim, self.outputs)
        rows = self.embedding(Joint()(prompt))
        end = self.embedding.token_width(prompt.dim + prompt.outputs)
        labels = rows[:, end - self.outputs : end]
        features = jnp.concatenate([rows[:, : end - self.outputs], rows[:, end:]], axis=1)
        return Prompt(features[:-1], labels[:-1], features[-1]), labels[-1]

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        features, start = self.features(prompt)
        return self.descent(features) - start

    def iterates(self, prompt: Prompt) -> Float[Array, "iterates m"]:
        features, start = self.features(prompt)
        return self.descent.iterates(features) - start
