"""The best sizes of several steps, against the exact one and a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mesalens import GradientDescent, InputError, random
from mesalens.analysis import risks
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask
from mesalens.theory import best_step_size, best_steps

TASK = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=5, noise=GaussianNoise(0.2))


def test_one_step_has_the_exact_size_within_its_error():
    found = best_steps(TASK, 1, key=random.key(1))
    assert abs(found.step_size - best_step_size(TASK)) < 4.5 * found.standard_error
    assert 0 < found.standard_error < 0.1 * found.step_size


def test_three_steps_of_one_size_are_where_a_scan_is_least():
    found = best_steps(TASK, 3, key=random.key(2))
    sizes = np.linspace(0.6, 1.4, 9) * found.step_size
    scanned = [
        float(each.value)
        for each in risks(tuple(GradientDescent(s, 3) for s in sizes), TASK, random.key(3), prompts=50_000)
    ]
    parabola = np.polynomial.Polynomial.fit(sizes, scanned, 4)
    least = sizes[0] + (sizes[-1] - sizes[0]) * np.argmin(parabola(np.linspace(sizes[0], sizes[-1], 1001))) / 1000
    assert abs(least - found.step_size) < 4.5 * found.standard_error * np.sqrt(2)
    assert abs(float(found.risk.value) - min(scanned)) < 5 * float(found.risk.standard_error)


def test_sizes_of_their_own_are_no_worse_and_stationary():
    shared = best_steps(TASK, 2, key=random.key(4))
    own = best_steps(TASK, 2, shared=False, key=random.key(4))
    assert own.step_size.shape == own.standard_error.shape == (2,)
    assert own.risk.value <= shared.risk.value + 3 * own.risk.standard_error
    prompts, targets = TASK.sample(random.key(5), (50_000,))

    def risk(sizes):
        return jnp.mean(jnp.sum((jax.vmap(GradientDescent(sizes, 2))(prompts) - targets) ** 2, axis=-1))

    sizes = jnp.asarray(own.step_size, jnp.float32)
    slope, curvature = jax.jit(lambda s: (jax.grad(risk)(s), jax.hessian(risk)(s)))(sizes)
    away = np.linalg.solve(curvature, slope)  # to the least risk on these prompts
    assert np.all(np.abs(away) < 4.5 * np.sqrt(1 + 20_000 / 50_000) * own.standard_error)


@pytest.mark.parametrize(("steps", "prompts", "sentence"), [(0, 100, "steps is 0"), (1, 1, "prompts is 1")])
def test_sizes_that_are_none_get_a_sentence(steps, prompts, sentence):
    with pytest.raises(InputError, match=sentence):
        best_steps(TASK, steps, prompts=prompts)
