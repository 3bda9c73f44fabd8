"""The initial weights of the models of parts `sine` and `teachers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mesalens import random, tasks
from mesalens.models import Transformer
from mesalens.prompt import Prompt
from mesalens.studies.von_oswald_2023 import nonlinear_models
from mesalens.studies.von_oswald_2023.study import STUDY

TASKS = {
    "sine": tasks.RegressionTask(tasks.Uniform(1, 5.0), tasks.SineWaves(1), context_length=10),
    "teachers": tasks.RegressionTask(
        tasks.Gaussian(3), tasks.TwoLayerNetworks(3, 2), context_length=10
    ),
}


def before_training(part, step="attention", *, start):
    settings, initialise = STUDY.values("quick").of(part), getattr(nonlinear_models, step)
    return initialise(settings, TASKS[part], start, random.key(3))


@pytest.mark.parametrize("part", TASKS)
def test_each_hidden_unit_bends_within_the_inputs(part):
    """Along the covariates its slope changes where it is 0; for waves these places are uniform."""
    task, model = TASKS[part], before_training(part, start="covariates")
    hidden, E = model.embedding.mlp.layers[0], model.embedding.projection.weight
    slopes = hidden.weight @ E[:, : task.dim]
    # The distance of the plane w · E (x, 0) + b = 0 from 0
    distances = jnp.abs(hidden.bias) / jnp.linalg.norm(slopes, axis=1)
    xs = task.covariates.sample(random.key(4), (100_000,))
    assert 0 < distances.min() < distances.max() < jnp.linalg.norm(xs, axis=1).max()
    if part == "sine":
        bends = np.sort(np.asarray(-hidden.bias / slopes[:, 0]))
        uniform = (np.arange(len(bends)) + 0.5) / len(bends) * 10 - 5
        assert np.abs(bends - uniform).max() < 10 * 1.63 / len(bends) ** 0.5  # Kolmogorov, 1%
    published = before_training(part, start="published")
    assert not published.embedding.mlp.layers[0].bias.any()


def test_scores_start_smaller_and_values_larger_by_as_much():
    (quick,), (published,) = (
        [layer.attention for layer in before_training("sine", start=start).stored_layers]
        for start in ("covariates", "published")
    )
    A, B = (np.linalg.norm(x) for x in quick.effective())
    A_published, B_published = (np.linalg.norm(x) for x in published.effective())
    np.testing.assert_allclose([A / A_published, B / B_published], [1 / 160, 160], rtol=1e-5)


@pytest.mark.parametrize("start", ["covariates", "published"])
def test_both_models_start_with_the_same_features(start):
    model, descent = (
        before_training("sine", step, start=start) for step in ("attention", "descent")
    )
    xs, ys = jnp.linspace(-5, 5, 10)[:, None], jnp.linspace(-0.5, 0.5, 10)[:, None]
    prompt = Prompt(xs, ys, jnp.array([1.5]))
    np.testing.assert_allclose(model.iterates(prompt)[0], descent.iterates(prompt)[0], rtol=1e-5)
    leaves = [jax.tree.leaves(each.embedding) for each in (model, descent)]
    assert all((one == two).all() for one, two in zip(*leaves, strict=True) if hasattr(one, "all"))


def test_the_published_start_is_that_of_a_transformer():
    s = STUDY.values("quick").of("sine")
    options = {"embedding_size": s.embedding_size, "input_mlp_widening": s.widening}
    model = Transformer.initialise(1, 1, **options, init_scale=s.init_scale, key=random.key(3))
    ours = before_training("sine", start="published")
    np.testing.assert_array_equal(
        model.embedding.projection.weight, ours.embedding.projection.weight
    )
