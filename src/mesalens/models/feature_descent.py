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
    r"""Gradient descent on the features that an embedding computes from joint tokens.

    $$h_i = \text{Embedding}(x_i, y_i) = (\varphi_i, t_i), \qquad
    h_q = \text{Embedding}(x_q, 0) = (\varphi_q, t_q)$$

    $$\hat y = W_k \varphi_q - t_q$$

    where W_k is the result of k steps on `1/(2n) Σ_i ‖W φ_i - t_i‖²` from W_0, and t is the y-part
    of a row. If descent starts at 0, the prediction before the first step is `-t_q`, that of the
    embedding alone, and this is a transformer with the same embedding whose attention has the
    weights of [`gradient_descent_transformer`][mesalens.theory.gradient_descent_transformer].
    Training changes the embedding and the rates.

    Attributes:
        embedding: Computes the features.
        descent: Gradient descent on the features.
        outputs: m, the number of entries of a label.

    Raises:
        ValueError: On a call, if the prompt has another number of outputs.

    Source: von Oswald et al. (2023), Section 4, Proposition 2 and Figure 4.
    """

    fixed = tuple(f"descent.{name}" for name in GradientDescent.fixed)

    embedding: Embedding
    descent: GradientDescent
    outputs: int = eqx.field(static=True, default=1)

    def features(self, prompt: Prompt) -> tuple[Prompt, Float[Array, " m"]]:
        """A prompt of the features `(φ_i, t_i)` and the query φ_q, and t_q of shape (m,).

        Args:
            prompt: One prompt.
        """
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
