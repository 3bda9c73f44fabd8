"""`FeatureDescent`: gradient descent on learned features, what an MLP and one attention layer are compared with."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from mesalens.learners import GradientDescent
from mesalens.learners.base import IterativeLearner
from mesalens.models.embedding import Embedding
from mesalens.models.tokens import Joint
from mesalens.prompt import Prompt


class FeatureDescent(IterativeLearner):
    """Gradient descent on the features that an embedding makes of joint tokens.

        h_i = Embedding(x_i, y_i) = (φ_i, t_i),     h_q = Embedding(x_q, 0) = (φ_q, t_q),     t the last m entries
        W_k = k steps of descent on 1/(2n) Σ_i ‖W φ_i - t_i‖² from W_0,     ŷ = W_k φ_q - t_q

    Where descent starts at 0, before the first step ŷ is `-t_q`, what the embedding alone says. It is a transformer with the same
    embedding whose attention has the weights of `mesalens.theory.gradient_descent_transformer`; training changes the embedding and
    the rates of descent.

    Source: von Oswald et al. (2023), Section 4, Proposition 2 and Figure 4 (MLP and one step of gradient descent).
    """

    embedding: Embedding
    descent: GradientDescent
    outputs: int = eqx.field(static=True, default=1)

    def features(self, prompt: Prompt) -> tuple[Prompt, Float[Array, " m"]]:
        """The prompt of features `(φ_i, t_i)`, φ_q, and t_q."""
        rows = self.embedding(Joint()(prompt))
        split = rows.shape[1] - self.outputs
        return Prompt(rows[:-1, :split], rows[:-1, split:], rows[-1, :split]), rows[-1, split:]

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        features, start = self.features(prompt)
        return self.descent(features) - start

    def iterates(self, prompt: Prompt) -> Float[Array, "iterates m"]:
        features, start = self.features(prompt)
        return self.descent.iterates(features) - start

    def trainable(self) -> PyTree[bool]:
        """The embedding, and the rates of descent."""
        every = jax.tree.map(eqx.is_inexact_array, self)
        return eqx.tree_at(lambda learner: learner.descent, every, self.descent.trainable())
