"""How many programs are compiled, from cold, by what users wait for: bounds that no clock blurs."""

import gc

import jax
import numpy as np
import pytest
from small_identification import brief  # noqa: F401

from mesalens import identify
from mesalens.cli import main
from mesalens.program_cache import counted
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask
from mesalens.training import TrainingSettings

TRAINING = {"steps": 4, "every": 2, "batch_size": 8, "task": {"dim": 2, "context_length": 3}}


@pytest.fixture
def cold():
    """A process that has compiled nothing yet, and a count of what it compiles."""
    jax.clear_caches()
    with counted() as programs:
        yield programs


def test_a_training_compiles_its_start_its_steps_and_what_it_measures(cold):
    """First weights, first state of the optimiser, steps, measurements: for any number of seeds."""
    TrainingSettings.read(TRAINING | {"seeds": 2}).train(
        batching="cores", measure=lambda learner, key: {"draw": jax.random.uniform(key)}
    )
    assert cold.compiled == 4


def test_a_training_in_one_vmap_compiles_no_more(cold):
    """But for a program that measures nothing."""
    TrainingSettings.read(TRAINING | {"seeds": 2}).train(batching="vmap")
    assert cold.compiled <= 4


def test_an_optimum_in_closed_form_compiles_nothing(cold, capsys):
    assert main(["optimum", "--dim", "4", "--context-length", "3"]) == 0
    assert "one step of gradient descent" in capsys.readouterr().out
    assert cold.compiled == cold.loaded == 0
    assert gc.isenabled()  # it is off while a command imports


@pytest.mark.usefixtures("brief")
def test_the_identification_of_a_numpy_function(cold):
    def step(xs, ys, query):
        return 0.1 * np.einsum("bnd,bnm,bd->bm", xs, ys, query)

    identify(step, RegressionTask(Gaussian(2), LinearFunctions(2), context_length=3))
    assert cold.compiled <= 9
