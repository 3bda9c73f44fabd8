"""Theory and small functions of the parts of von-oswald-2023 beyond linear regression."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from mesalens import InputError, random
from mesalens.tasks import (
    ClassificationTask,
    Gaussian,
    GaussianNoise,
    LinearFunctions,
    RegressionTask,
    SineWaves,
    Uniform,
)
from mesalens.theory import best_logistic_step, context_blind_risk

WAVES = RegressionTask(Uniform(1, 5.0), SineWaves(1), context_length=4)


@pytest.mark.parametrize("reach", [5.0, 0.7])
def test_the_best_function_of_the_query_alone_has_the_risk_of_a_quadrature(reach):
    task = replace(WAVES, covariates=Uniform(1, reach))
    bounds = ((-reach, reach), (0.1, 0.5), (0, np.pi))
    middles = [low + (high - low) * (np.arange(200) + 0.5) / 200 for low, high in bounds]
    x, amplitude, phase = np.meshgrid(*middles, indexing="ij")
    wave = amplitude * np.sin(x + phase)
    expected = (wave - wave.mean((1, 2), keepdims=True)).var()
    np.testing.assert_allclose(context_blind_risk(task, 1.0), expected, rtol=1e-4)


def test_outputs_and_scales_of_waves_count():
    functions = SineWaves(1, 3, scale=2.0)
    task = replace(WAVES, functions=functions)
    np.testing.assert_allclose(
        context_blind_risk(task, 1.0), 12 * context_blind_risk(WAVES, 1.0), rtol=1e-12
    )


def test_without_a_look_at_the_context_nothing_beats_0_on_a_symmetric_task():
    task = RegressionTask(Uniform(2, 1.0), LinearFunctions(2), context_length=4)
    assert context_blind_risk(task, 0.25) == 0.25


@pytest.mark.parametrize(
    "change",
    [
        {"functions": SineWaves(1, phase=(0.0, 1.0))},
        {"covariates": Gaussian(1)},
        {"noise": GaussianNoise(0.1)},
    ],
)
def test_the_best_function_of_the_query_alone_is_not_known_for_every_task(change):
    with pytest.raises(InputError, match="functions"):
        context_blind_risk(replace(WAVES, **change), 1.0)


def test_the_best_logistic_step_is_that_of_newton_s_method_in_numpy():
    task = ClassificationTask(Gaussian(2), LinearFunctions(2, 3), context_length=6)
    found = best_logistic_step(task, random.key(0), prompts=4000)
    prompts, targets = task.sample(random.key(0), (4000,))
    xs, ys, query, target = (
        np.asarray(leaf, np.float64) for leaf in (prompts.xs, prompts.ys, prompts.query, targets)
    )
    directions = np.einsum("pnc,pnd,pd->pc", ys - 1 / 3, xs, query) / 6

    def slope(size):
        classes = scipy.special.softmax(size * directions, axis=1)
        return ((classes - target) * directions).sum(1).mean()

    expected = scipy.optimize.newton(slope, 2.0)
    np.testing.assert_allclose(float(found.step_size), expected, rtol=1e-2)
    assert found.steps == 1 and found.initial_weights is None


def test_a_best_logistic_step_needs_classes():
    task = RegressionTask(Uniform(2, 1.0), LinearFunctions(2), context_length=4)
    with pytest.raises(InputError, match="classes"):
        best_logistic_step(task, random.key(0), prompts=10)
