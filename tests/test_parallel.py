"""Many runs at once: on cores or in one `vmap`, in groups where memory is short, sharded over devices."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from small_training import StoppedError, assert_same

from mesalens import GradientDescent, LinearTransformer, random
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask
from mesalens.theory import layer_risks, task_moments
from mesalens.training import StoppingRule, parallel, train
from mesalens.training.optimisers.adam import clipped_adam
from mesalens.training.parallel import OverRuns

pytest_plugins = ["small_training"]
pytestmark = pytest.mark.usefixtures("compiled_once")

TASK = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=4)
RUNS, SIZE = 7, 100


def steps(own, state, numbers):
    """Some steps of a run whose arrays have a size that counts beside that of the program."""

    def step(state, number):
        weights, key = state
        weights = jnp.tanh(own @ weights) + 0.1 * number
        return (weights, key), (weights.sum(), jax.random.uniform(jax.random.fold_in(key, number)))

    return jax.lax.scan(step, state, numbers)


def start():
    """What is each run's own, and its state."""
    keys = jax.random.split(random.key(0), RUNS)
    own = jax.vmap(lambda key: jax.random.normal(key, (SIZE, SIZE)) / SIZE**0.5)(keys)
    return own, (jnp.copy(own[:, 0]), jax.vmap(lambda key: jax.random.fold_in(key, 9))(keys))


def over_runs(batching, places=None, **options):
    """What comes out for some steps, what was said, and how many went at once."""
    said = []
    over = OverRuns(steps, RUNS, batching=batching, say=said.append, **options)
    own, state = start()
    (weights, keys), (sums, draws) = over(own, state, jnp.arange(3), places)
    results = [np.asarray(leaf) for leaf in (weights, jax.random.key_data(keys), sums, draws)]
    return results, said, over.at_once


def assert_near(ones, others):
    """To rounding, but for keys and draws: these bit for bit."""
    for place, (one, other) in enumerate(zip(ones, others, strict=True)):
        if place in (1, 3):
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def one_by_one():
    own, state = start()
    jitted = jax.jit(steps)
    each = [
        jitted(own[i], jax.tree.map(lambda leaf, i=i: leaf[i], state), jnp.arange(3))
        for i in range(RUNS)
    ]
    (weights, keys), (sums, draws) = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return [np.asarray(leaf) for leaf in (weights, jax.random.key_data(keys), sums, draws)]


@pytest.fixture(scope="module")
def bytes_of_one():
    """What one run needs, as the message says."""
    _, (line,), _ = over_runs("cores", memory=1.0)
    return 1e9 * float(re.search(r"one run needs ([\d.e-]+) GB", line)[1])


@pytest.mark.parametrize("batching", ["cores", "vmap"])
@pytest.mark.parametrize("places", [None, [5, 1, 6]])
def test_runs_have_the_results_of_each_alone_in_the_order_that_is_asked_for(
    one_by_one, batching, places
):
    results, said, _ = over_runs(batching, places)
    assert_near(results, [leaf if places is None else leaf[places] for leaf in one_by_one])
    assert said == []


@pytest.mark.parametrize("places", [None, [6, 0, 2, 5], [3]])
def test_a_vmap_that_needs_more_memory_goes_in_groups_and_says_so_once(
    one_by_one, bytes_of_one, places
):
    results, said, at_once = over_runs("vmap", places, memory=3.5 * bytes_of_one)
    assert at_once == 3  # so that the last group, of 7, 4 or 1 runs, is not full
    assert_near(results, [leaf if places is None else leaf[places] for leaf in one_by_one])
    (line,) = said
    found = re.search(r"7 runs at once need ([\d.e-]+) GB.* ([\d.e-]+) GB .* 3 ", line)
    assert float(found[1]) == pytest.approx(7e-9 * bytes_of_one, rel=0.05)
    assert float(found[2]) == pytest.approx(3.5e-9 * bytes_of_one, rel=0.01)


@pytest.mark.parametrize(("runs_that_fit", "workers"), [(2.5, 2), (20, 4)])
def test_cores_with_little_memory_have_fewer_workers(
    one_by_one, bytes_of_one, monkeypatch, runs_that_fit, workers
):
    used = []
    pool = parallel.ThreadPoolExecutor
    monkeypatch.setattr(parallel, "cores", lambda: 4)
    monkeypatch.setattr(
        parallel, "ThreadPoolExecutor", lambda workers: used.append(workers) or pool(workers)
    )
    results, said, at_once = over_runs("cores", memory=runs_that_fit * bytes_of_one)
    assert_near(results, one_by_one)
    assert used == [workers] and at_once == workers
    assert len(said) == (workers < 4)
    for line in said:
        assert re.search(r"4 runs at once need .* GB.* 2 ", line)


@pytest.mark.parametrize("batching", ["cores", "vmap"])
def test_one_run_that_does_not_fit_is_tried_alone_with_a_sentence(one_by_one, batching):
    results, (line,), at_once = over_runs(batching, memory=1.0)
    assert at_once == 1
    assert_near(results, one_by_one)
    assert re.search(r"one run needs [\d.e-]+ GB.* 1e-09 GB.*microbatches", line)


def test_as_many_go_at_once_as_did_before_whatever_memory_there_is(one_by_one):
    results, said, at_once = over_runs("vmap", at_once=2, memory=1.0)
    assert (said, at_once) == ([], 2)
    assert_near(results, one_by_one)


def test_a_vmap_takes_the_memory_of_the_state_where_it_may():
    numbers = jnp.arange(2)
    for donate in (True, False):
        own, state = start()
        OverRuns(steps, RUNS, batching="vmap", donate=donate)(own, state, numbers)
        assert state[0].is_deleted() == donate and not own.is_deleted()
    own, state = start()
    OverRuns(steps, RUNS, batching="vmap", donate=True)(own, state, numbers, [0, 4])
    assert not state[0].is_deleted()  # the others are still in it


def trained(folder=None, *, optimiser=None, stop_at=None, **options):
    def progress(done):
        if done == stop_at:
            raise StoppedError

    options = {
        "steps": 20,
        "batch_size": 16,
        "every": 5,
        "seeds": 3,
        "key": random.key(2),
        **options,
    }
    return train(
        lambda key: GradientDescent(0.1 + 0.1 * jax.random.uniform(key)),
        TASK,
        optax.adam(1e-2) if optimiser is None else optimiser,
        checkpoint=folder,
        progress=progress,
        **options,
    )


class EndsSome(StoppingRule):
    """Ends the runs at even places after the second chunk."""

    def reached(self, metrics):
        places = np.arange(len(metrics["loss"]))
        return (places % 2 == 0) & (metrics["loss"].shape[1] > 2)

    def words(self):
        return "even places"


def assert_same_training(one, other):
    """To rounding; draws bit for bit."""
    for name in ("ending", "steps_taken"):
        xr.testing.assert_equal(one.metrics[name], other.metrics[name])
    np.testing.assert_array_equal(one.metrics.draw, other.metrics.draw)
    np.testing.assert_allclose(one.metrics.loss, other.metrics.loss, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(one.learners), jax.tree.leaves(other.learners), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def measure(learner, key):
    return {"draw": jax.random.uniform(key)}


@pytest.mark.slow
def test_trainings_on_cores_and_in_a_vmap_whole_or_in_groups_agree_also_where_some_have_ended():
    said = []
    options = {"seeds": 5, "stop": EndsSome(), "measure": measure, "say": said.append}
    on_cores, whole = trained(**options), trained(**options, batching="vmap")
    assert said == []
    assert whole.metrics.steps_taken.values.tolist() == [10, 20, 10, 20, 10]
    assert_same_training(on_cores, whole)
    assert_same_training(trained(**options, batching="vmap", memory=1.0), whole)
    assert said and all("one run needs" in line for line in said)


@pytest.mark.slow
def test_the_risk_itself_is_made_small_in_double_precision_on_cores_too():
    found = train(
        lambda key: LinearTransformer.initialise(2, init_scale=0.1, key=key),
        TASK,
        clipped_adam(1e-2, clip=1.0),
        steps=4,
        every=4,
        seeds=2,
        key=random.key(0),
        objective="population",
        batching="cores",
    )
    assert found.metrics.risk.dtype == np.float64
    np.testing.assert_allclose(
        found.metrics.risk[:, -1], layer_risks(found.learners, task_moments(TASK)), rtol=1e-6
    )


@pytest.mark.slow
def test_a_vmap_whose_states_are_given_away_is_kept_and_goes_on_bit_for_bit(tmp_path):
    with pytest.raises(StoppedError):
        trained(tmp_path, stop_at=15, batching="vmap")
    assert_same(trained(tmp_path, batching="vmap"), trained(batching="vmap"))


@pytest.mark.slow
def test_an_error_after_a_state_was_given_away_is_the_one_that_is_seen(tmp_path):
    def explode(updates, state, parameters=None):
        return jax.tree.map(lambda u: jnp.where(state == 12, jnp.nan, u), updates), state + 1

    def say(line):
        raise StoppedError(line)

    optimiser = optax.GradientTransformation(lambda parameters: jnp.array(0), explode)
    with pytest.raises(StoppedError, match="not finite at step 13"):
        trained(tmp_path, optimiser=optimiser, say=say, batching="vmap")


ON_FOUR_DEVICES = """
import json
import jax, jax.numpy as jnp, numpy as np, optax
from mesalens import GradientDescent, random
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask
from mesalens.training import engine, train
from mesalens.training.parallel import OverRuns

TASK = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=4)
batchings, devices = [], set()

class Watched(OverRuns):
    def __call__(self, *arguments):
        batchings.append(self.batching)
        results = super().__call__(*arguments)
        devices.update(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(results))
        return results

engine.OverRuns = Watched

def trained(**options):
    batchings.clear(), devices.clear()
    training = train(
        lambda key: GradientDescent(0.1 * jax.random.uniform(key)), TASK, optax.adam(1e-2), seeds=6, steps=6,
        batch_size=16, every=3, key=random.key(1), measure=lambda learner, key: {"draw": jax.random.uniform(key)},
        **options,
    )
    return {
        "loss": training.metrics.loss.values[:, 1:].tolist(),
        "draw": training.metrics.draw.values.tolist(),
        "step size": np.asarray(training.learners.step_size).tolist(),
        "batchings": sorted(set(batchings)),
        "devices": sorted(devices),
    }

found = {"four": trained()}
with jax.default_device(jax.devices()[0]):
    found["one"] = trained(batching="vmap")

def square(own, state, number):
    return state**2 + number

def squares(runs, places=None, **options):
    state = jax.device_put(jnp.arange(float(runs)), jax.devices()[0])
    return OverRuns(square, runs, batching="vmap", **options)(jnp.zeros(runs), state, jnp.array(1), places)

over = OverRuns(square, 8, batching="vmap", donate=True)
first = squares(8)
again = over(jnp.zeros(8), first, jnp.array(1))
found["parts"] = sorted((shard.device.id, shard.data.tolist()) for shard in again.addressable_shards)
found["given away"] = first.is_deleted()
said = []
found["groups"] = squares(11, memory=1.0, say=said.append).tolist()
found["said"] = said
found["some"] = squares(11, [7, 3, 9, 2, 1]).tolist()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_runs_are_sharded_over_devices_and_have_the_results_of_one_device():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    answer = subprocess.run(
        [sys.executable, "-c", ON_FOUR_DEVICES],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    four, one = found["four"], found["one"]
    assert four["batchings"] == ["vmap"]  # without having been asked for
    assert 4 in four["devices"] and one["devices"] == [1]
    # 6 runs on 4 devices: two places are filled up
    assert four["draw"] == one["draw"]
    np.testing.assert_allclose(four["loss"], one["loss"], rtol=1e-4)
    np.testing.assert_allclose(four["step size"], one["step size"], rtol=1e-4)
    twice = [(i**2 + 1.0) ** 2 + 1 for i in range(8)]
    assert found["parts"] == [[device, twice[2 * device : 2 * device + 2]] for device in range(4)]
    assert found["given away"]
    assert found["groups"] == [i**2 + 1.0 for i in range(11)] and len(found["said"]) == 1
    assert found["some"] == [i**2 + 1.0 for i in (7, 3, 9, 2, 1)]
