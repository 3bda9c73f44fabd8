"""The small training that tests of states, faults, signals and kills share, and its fixtures.

Tests name it as a plugin and import it too, before pytest could rewrite its assertions:
PYTEST_DONT_REWRITE.
"""

import shutil

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import xarray as xr
from jax.experimental.compilation_cache import compilation_cache

from mesalens import LinearTransformer, random
from mesalens.tasks import LinearFunctions, RegressionTask, Uniform
from mesalens.training import checkpoint, train
from mesalens.training.optimisers.adam import clipped_adam

TASK = RegressionTask(Uniform(3, 0.5), LinearFunctions(3), context_length=5)
ADAM = clipped_adam(1e-2, clip=1e-3)


class StoppedError(Exception):
    """Stops a training."""


def initialise(key, **options):
    return LinearTransformer.initialise(3, key=key, **options)


def measure(learner, key):
    return {"norm": jnp.sum(learner.weights.W_Q**2), "draw": jax.random.uniform(key)}


def trained(folder=None, stop=None, done=None, progress=lambda done: None, **options):
    """Two seeds for 25 steps, or until `stop` steps are done; the list `done` takes the reports."""

    def report(steps):
        if done is not None:
            done.append(steps)
        progress(steps)
        if steps == stop:
            raise StoppedError

    options = {
        "initialise": initialise,
        "task": TASK,
        "optimiser": ADAM,
        "seeds": 2,
        "steps": 25,
        **options,
    }
    options = {"batch_size": 32, "every": 10, "measure": measure, "key": random.key(1), **options}
    return train(**options, progress=report, checkpoint=folder)


def assert_same(one, other):
    """Bit for bit, weights and metrics."""
    xr.testing.assert_identical(one.metrics, other.metrics)
    for a, b in zip(jax.tree.leaves(one.learners), jax.tree.leaves(other.learners), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Keeps programs, as most trainings here are the same one, apart from those of the user."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.getbasetemp() / "programs"),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # or JAX would stay with the folder that it has used before
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def whole(compiled_once):
    """A training that nothing stopped."""
    return trained()


@pytest.fixture(scope="module")
def stopped(compiled_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(checkpoint, "SECONDS_BETWEEN_SAVES", 0)
        trained(folder, stop=20)
    return folder


@pytest.fixture
def kept(stopped, tmp_path):
    """The folder of a training stopped after 20 of 25 steps, with the states after 10 and 20."""
    return shutil.copytree(stopped, tmp_path / "kept")


@pytest.fixture
def kept_at_once(monkeypatch):
    """Keeps every state, however fast they follow each other."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_SAVES", 0)


@pytest.fixture
def unchecked(monkeypatch):
    """Turns the type checks of the tests off, so that mesalens' own are tested."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
