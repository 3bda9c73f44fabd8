"""Learners from NumPy: the same numbers as ours, under every transformation, and what they cannot do."""

import functools
import importlib.util
import os
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Lasso, LogisticRegression, RidgeClassifier
from sklearn.linear_model import Ridge as TheirRidge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from mesalens import InputError, Ridge, random
from mesalens.adapters import NumpyLearner, PromptFunction, _sklearn, as_learner, from_sklearn
from mesalens.analysis import (
    accuracy,
    alignment,
    compare,
    risk,
    risks,
    risks_under_shift,
    scaled_inputs,
    sensitivity,
    similarity,
)
from mesalens.kinds import load
from mesalens.tasks import (
    ClassificationTask,
    CondensedTask,
    Gaussian,
    GaussianNoise,
    LinearFunctions,
    RegressionTask,
)
from mesalens.training import train

TASK = RegressionTask(
    Gaussian(3), LinearFunctions(3, 2), context_length=5, noise=GaussianNoise(0.01)
)
KEY = random.key(0)


def ridge(xs, ys, queries):
    gram = xs.mT @ xs + 0.3 * np.eye(xs.shape[-1])
    return np.einsum("nd,ndm->nm", queries, np.linalg.solve(gram, xs.mT @ ys))


def one_by_one(xs, ys, queries):
    """As an estimator is fitted, once for each prompt; a list, not an array."""
    predictions = []
    for x, y, query in zip(xs, ys, queries, strict=True):
        weights = np.linalg.lstsq(
            np.vstack([x, np.sqrt(0.3) * np.eye(3)]), np.vstack([y, np.zeros((3, 2))])
        )[0]
        predictions.append(query @ weights)
    return predictions


@pytest.mark.parametrize("function", [ridge, one_by_one])
def test_it_has_the_risk_of_the_same_learner_in_jax(function):
    ours, foreign = risks([Ridge(0.3), NumpyLearner(function)], TASK, KEY, prompts=3000)
    assert float(foreign.value) == pytest.approx(float(ours.value), rel=1e-5)
    assert float(foreign.standard_error) == pytest.approx(float(ours.standard_error), rel=1e-4)


@pytest.mark.slow
def test_one_prompt_a_batch_and_nested_maps():
    foreign, ours = NumpyLearner(ridge), Ridge(0.3)
    prompts, _ = TASK.sample(KEY, (2, 3))
    one = jax.tree.map(lambda leaf: leaf[1, 2], prompts)
    np.testing.assert_allclose(foreign(one), ours(one), rtol=1e-4)
    nested = jax.jit(jax.vmap(jax.vmap(lambda prompt: foreign(prompt))))
    np.testing.assert_allclose(nested(prompts), jax.vmap(jax.vmap(ours))(prompts), rtol=1e-3)
    np.testing.assert_allclose(jax.lax.map(foreign.batch, prompts), nested(prompts), rtol=1e-5)
    # One context with several queries: what is not mapped is repeated
    queries = jnp.eye(3)
    weights = jax.vmap(lambda query: foreign(type(one)(one.xs, one.ys, query)))(queries)
    np.testing.assert_allclose(one.query @ weights, foreign(one), rtol=1e-4)


def test_the_function_sees_whole_batches():
    sizes = []

    def counting(xs, ys, queries):
        sizes.append((xs.shape, ys.shape, queries.shape, xs.dtype))
        return ridge(xs, ys, queries)

    keys = jax.random.split(KEY, 3)
    over_seeds = eqx.filter_jit(
        eqx.filter_vmap(lambda key: risk(NumpyLearner(counting), TASK, key, prompts=40))
    )
    found = over_seeds(keys)
    trial, seen = (
        ((2, 5, 3), (2, 5, 2), (2, 3), np.float32),
        ((120, 5, 3), (120, 5, 2), (120, 3), np.float32),
    )
    assert sizes == [trial, seen]
    alone = [float(risk(Ridge(0.3), TASK, key, prompts=40).value) for key in keys]
    np.testing.assert_allclose(found.value, alone, rtol=1e-5)


@pytest.mark.slow
def test_shift_similarity_and_accuracy():
    pair = [NumpyLearner(ridge), Ridge(0.3)]
    foreign, ours = risks_under_shift(
        pair, scaled_inputs(TASK), np.array([0.5, 2.0]), KEY, prompts=200
    )
    np.testing.assert_allclose(foreign.value, ours.value, rtol=1e-4)
    assert float(similarity(*pair, TASK, KEY, prompts=100).difference[0, 0]) < 1e-9
    task = ClassificationTask(Gaussian(3), LinearFunctions(3, 2), context_length=5)
    right = [float(accuracy(learner, task, KEY, prompts=200).value) for learner in pair]
    assert right[0] == right[1] > 0.5


@pytest.mark.slow
def test_double_precision_and_integers():
    with jax.enable_x64(True):
        prompt = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), TASK.sample(KEY)[0])
        found = NumpyLearner(ridge)(prompt)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, Ridge(0.3)(prompt), rtol=1e-12)
    zero = NumpyLearner(lambda xs, ys, queries: np.zeros((len(xs), 2), int))
    assert zero(TASK.sample(KEY)[0]).dtype == jnp.float32


def test_nan_is_measured_as_nan():
    lost = NumpyLearner(lambda xs, ys, queries: np.full((len(xs), 2), np.nan))
    assert np.isnan(risk(lost, TASK, KEY, prompts=20).value)


def fails(xs, ys, queries):
    raise ZeroDivisionError("no more\nnumbers")


def needs_classes(xs, ys, queries):
    """As classifiers of scikit-learn do."""
    assert set(np.unique(ys)) == {0, 1} and ys.sum() == len(ys) * ys.shape[1]
    return ys[:, 0]


def test_the_trial_has_labels_that_classifiers_take():
    task = ClassificationTask(Gaussian(3), LinearFunctions(3, 4), context_length=5)
    assert 0 < accuracy(NumpyLearner(needs_classes), task, KEY, prompts=50).value < 1


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (
            lambda: risk(NumpyLearner(lambda xs, ys, queries: queries), TASK, KEY),
            r"\(2, 2\).*\(2, 3\)",
        ),
        (
            lambda: risk(
                NumpyLearner(lambda xs, ys, queries: np.zeros((2, 2), complex)), TASK, KEY
            ),
            "complex128",
        ),
        (lambda: risk(NumpyLearner(lambda xs, ys, queries: None), TASK, KEY), "object"),
        (
            lambda: risk(NumpyLearner(fails), TASK, KEY),
            "fails .*ZeroDivisionError: no more numbers",
        ),
        (lambda: risk(NumpyLearner(functools.partial(ridge, 1)), TASK, KEY), "partial .*TypeError"),
        (lambda: risk(NumpyLearner(ridge), CondensedTask(TASK), KEY), "NumpyLearner .*condensed"),
        (lambda: alignment(NumpyLearner(ridge), Ridge(0.3), TASK, KEY), "NumpyLearner"),
        (lambda: alignment(Ridge(0.3), NumpyLearner(ridge), TASK, KEY), "NumpyLearner"),
        (
            lambda: sensitivity(NumpyLearner(ridge), TASK.sample(KEY)[0]),
            "differentiable.*NumpyLearner",
        ),
        (
            lambda: jax.grad(lambda x: NumpyLearner(ridge)(x)[0])(TASK.sample(KEY)[0]),
            r"NumpyLearner\(ridge\)",
        ),
        (
            lambda: train(
                lambda key: NumpyLearner(ridge),
                TASK,
                optax.sgd(0.1),
                steps=1,
                batch_size=2,
                key=KEY,
            ),
            "NumpyLearner",
        ),
    ],
)
def test_what_it_cannot_do_is_said(make, named):
    with pytest.raises(InputError, match=named) as caught:
        make()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("measure", [risk, compare, alignment])
def test_an_estimator_that_is_no_learner_yet_gets_a_sentence(measure, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    subjects = [TheirRidge()] + [Ridge(1.0)] * (measure is not risk)
    with pytest.raises(InputError, match=r"Ridge .*mesalens\.adapters\.as_learner"):
        measure(*subjects, TASK, random.key(0), prompts=10)


def test_a_learner_needs_a_function(monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as where types are not checked
    for function in (3, Table()):
        with pytest.raises(InputError, match="function must be callable and hashable"):
            NumpyLearner(function)


class Table:
    """It can be called, and has no hash."""

    __hash__ = None

    def __call__(self, xs, ys, queries):
        return ridge(xs, ys, queries)


def batch(size=20, m=1, n=5, d=3):
    """Prompts with integers as labels."""
    rng = np.random.default_rng(0)
    xs, queries = rng.standard_normal((size, n, d)), rng.standard_normal((size, d))
    return xs, rng.integers(0, 9, (size, n, m)).astype(float), queries


def classes(size=20, m=3, n=12):
    """Prompts whose labels are one-hot and depend on x."""
    xs, _, queries = batch(size, n=n, d=m)
    return xs, np.eye(m)[xs.argmax(-1)], queries


def test_predictions_without_jax_are_in_double_precision():
    found = NumpyLearner(ridge).predict(*batch(m=2))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, ridge(*batch(m=2)))


def mean_label(xs, ys, queries):
    return ys[..., 0].mean(1)


def test_a_vector_of_predictions_will_do_for_a_single_output():
    learner = NumpyLearner(mean_label)
    np.testing.assert_array_equal(learner.predict(*batch()), batch()[1].mean(1))
    task = RegressionTask(Gaussian(3), LinearFunctions(3), context_length=5)
    assert np.isfinite(risk(learner, task, KEY, prompts=20).value)
    with pytest.raises(InputError, match=r"\(20, 2\)"):
        learner.predict(*batch(m=2))


def test_a_function_may_write_into_its_arguments():
    def centred(xs, ys, queries):
        ys -= ys.mean(1, keepdims=True)
        return ys[:, 0]

    prompts, again = batch(), batch()
    NumpyLearner(centred).predict(*prompts)
    np.testing.assert_array_equal(prompts[1], again[1])
    assert np.isfinite(risk(NumpyLearner(centred), TASK, KEY, prompts=20).value)


def test_predictions_that_are_not_finite_are_counted():
    def root(xs, ys, queries):
        return np.where(np.arange(len(xs)) < 3, np.nan, np.where(np.arange(len(xs)) < 5, np.inf, 0))

    with pytest.raises(InputError, match=r"root .* 5 of 20"):
        NumpyLearner(root).predict(*batch())


def test_the_prompt_at_which_a_function_fails_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompts = batch(37)
    bad = prompts[2][23]

    def fastidious(xs, ys, queries):
        if (queries == bad).all(-1).any():
            raise ZeroDivisionError("no\nmore")
        return ys[:, 0]

    with pytest.raises(
        InputError, match=r"fastidious .* 23 of 37 .*ZeroDivisionError: no more"
    ) as e:
        NumpyLearner(fastidious).predict(*prompts)
    with pytest.raises(InputError, match="fastidious failed: ZeroDivisionError"):
        NumpyLearner(fastidious).predict(*prompts, keep=False)
    (file,) = tmp_path.iterdir()
    assert file.name in str(e.value) and "\n" not in str(e.value)
    with np.load(file, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["query", "xs", "ys"]
        for name, part in zip(("xs", "ys", "query"), prompts, strict=True):
            np.testing.assert_array_equal(arrays[name], part[23])


def test_of_a_function_that_fails_on_several_prompts_alone_the_fewest_are_kept(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    def at_most_two(xs, ys, queries):
        if len(xs) > 2:
            raise MemoryError
        return ys[:, 0]

    with pytest.raises(InputError, match=r"prompts 0 to 3 of 16 .*MemoryError"):
        NumpyLearner(at_most_two).predict(*batch(16))
    (file,) = tmp_path.iterdir()
    with np.load(file) as arrays:
        np.testing.assert_array_equal(arrays["xs"], batch(16)[0][:4])


def test_a_function_of_one_prompt_is_told_that_it_gets_a_batch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shapes = r"a function gets a batch of prompts, xs \[B, n, d\], ys \[B, n, m\] and queries"

    def single(xs, ys, query):
        return query @ np.linalg.solve(xs.T @ xs, xs.T @ ys)

    learner = NumpyLearner(single)
    with pytest.raises(InputError, match=rf"single failed on .*ValueError: .*; {shapes}"):
        learner.predict(*batch(37))
    with pytest.raises(InputError, match=rf"two random prompts: .*; {shapes}"):
        risk(learner, TASK, KEY, prompts=16)
    prompts = batch(37)

    def fastidious(xs, ys, queries):
        if (queries == prompts[2][23]).all(-1).any():
            raise ValueError("no")
        return ys[:, 0]

    with pytest.raises(InputError, match=r"23 of 37 .*ValueError: no\.$"):
        NumpyLearner(fastidious).predict(*prompts)
    with pytest.raises(InputError) as caught:  # a division by 0 has nothing to do with shapes
        NumpyLearner(fails).predict(*batch())
    assert "batch" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        from_sklearn(KNeighborsRegressor(99)).predict(*batch())
    assert "[B" not in str(caught.value)


def test_in_a_compiled_program_the_error_has_the_same_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def only_two(xs, ys, queries):  # as many as it is tried with
        if len(xs) > 2:
            raise MemoryError
        return ys[:, 0]

    with pytest.raises(jax.errors.JaxRuntimeError, match=r"only_two failed .*mesalens-prompt-"):
        jax.block_until_ready(risk(NumpyLearner(only_two), TASK, KEY, prompts=16))


def test_a_folder_that_cannot_be_written_does_not_hide_the_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mesalens.adapters._numpy.replace_file", refuses_to_write)
    with pytest.raises(InputError, match=r"cannot be written: .*read-only.*ZeroDivisionError"):
        NumpyLearner(fails).predict(*batch())


def refuses_to_write(file, content):
    raise PermissionError("read-only")


def test_ridge_of_scikit_learn_is_ours():
    theirs = from_sklearn(TheirRidge(0.3, fit_intercept=False))
    prompts, _ = TASK.sample(KEY, (30,))
    found = theirs.predict(*map(np.asarray, (prompts.xs, prompts.ys, prompts.query)))
    np.testing.assert_allclose(found, Ridge(0.3).batch(prompts), rtol=1e-3, atol=1e-5)
    ours, foreign = risks([Ridge(0.3), theirs], TASK, KEY, prompts=50)
    assert float(foreign.value) == pytest.approx(float(ours.value), rel=1e-4)


def test_nearest_neighbours_of_scikit_learn():
    xs, ys, queries = batch(m=2)
    order = np.linalg.norm(xs - queries[:, None], axis=-1).argsort(1)[:, :3]
    expected = np.take_along_axis(ys, order[..., None], 1).mean(1)
    found = from_sklearn(KNeighborsRegressor, parameters={"n_neighbors": 3})
    np.testing.assert_allclose(found.predict(xs, ys, queries), expected)


def test_an_estimator_that_takes_vectors_alone_is_fitted_for_each_output():
    xs, ys, queries = batch(m=2)
    learner = from_sklearn(SVR(C=2.0))
    found = learner.predict(xs, ys, queries)
    columns = [learner.predict(xs, ys[..., [k]], queries) for k in (0, 1)]
    np.testing.assert_array_equal(found, np.concatenate(columns, 1))


def test_a_classifier_answers_with_probabilities():
    xs, labels, queries = classes()
    labels[0, :] = [0, 1, 0]  # one class alone, which logistic regression refuses
    labels[1, :] = np.eye(3)[np.arange(12) % 2 * 2]  # classes 0 and 2
    found = from_sklearn(LogisticRegression()).predict(xs, labels, queries)
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found[0] == [0, 1, 0]).all() and found[1, 1] == 0 and (found[1, [0, 2]] > 0).all()
    expected = LogisticRegression().fit(xs[2], labels[2].argmax(1)).predict_proba(queries[[2]])[0]
    np.testing.assert_allclose(found[2], expected)
    hard = from_sklearn(RidgeClassifier()).predict(xs, labels, queries)
    assert set(np.unique(hard)) == {0, 1} and (hard.sum(1) == 1).all()
    assert (hard[2:].argmax(1) == found[2:].argmax(1)).mean() > 0.7


@pytest.mark.slow
def test_a_classifier_on_a_task():
    task = ClassificationTask(Gaussian(3), LinearFunctions(3, 4), context_length=20)
    assert 0.4 < accuracy(from_sklearn(GaussianNB()), task, KEY, prompts=100).value < 1


def test_warnings_are_counted_and_not_shown():
    learner = from_sklearn(Lasso(1e-6, max_iter=1))
    learner.predict(*batch())
    assert learner.function.warnings["ConvergenceWarning"] > 10


def test_seeds_that_are_not_set_are_set():
    learner = from_sklearn(RandomForestRegressor(3))
    first, second = (learner.predict(*batch(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    chosen = from_sklearn(RandomForestRegressor(3), parameters={"random_state": 5})
    assert (chosen.predict(*batch(3)) != first).any()


def test_the_estimator_itself_stays_as_it_was():
    estimator = make_pipeline(StandardScaler(), TheirRidge())
    learner = from_sklearn(estimator, parameters={"ridge__alpha": 3.0})
    learner.predict(*batch())
    assert estimator[-1].alpha == 1 and not hasattr(estimator[-1], "coef_")
    assert learner.function.estimator[-1].alpha == 3


class Mean:
    """An estimator that knows nothing of scikit-learn. `fit` returns nothing."""

    def __init__(self, power=1.0):
        self.power = power

    def fit(self, X, y):
        if len(X) > 5:
            raise RuntimeError("more than\nfive")
        self.mean = y.mean(0) ** self.power

    def predict(self, X):
        return np.broadcast_to(self.mean, (len(X), *np.shape(self.mean)))


@pytest.mark.parametrize("m", [1, 2])
def test_fit_and_predict_are_enough(m):
    prompts = batch(m=m)
    for learner in (from_sklearn(Mean(1.0)), from_sklearn(Mean), as_learner(Mean)):
        np.testing.assert_allclose(learner.predict(*prompts), prompts[1].mean(1))
    squared = as_learner(Mean, parameters={"power": 2.0}).predict(*prompts)
    np.testing.assert_allclose(squared, prompts[1].mean(1) ** 2)


def test_a_learner_shows_its_estimator_in_one_line():
    def shown(estimator):
        return repr(from_sklearn(estimator))

    assert shown(TheirRidge(0.3)) == (
        "NumpyLearner(function=FittedEachTime(Ridge(alpha=0.3, random_state=0)))"
    )
    assert "(Mean)" in shown(Mean())  # and no address
    steps = [StandardScaler(with_std=False), TheirRidge(alpha=3)]
    pipeline = shown(make_pipeline(*steps))
    assert "StandardScaler(with_std=False)), ('ridge', Ridge(alpha=3, random_state=0))" in pipeline
    assert "\n" not in pipeline
    large = repr(from_sklearn(make_pipeline(*steps[:1] * 40, SVR())).function)
    assert len(large) < 800


def test_many_contexts_are_spread_over_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(_sklearn, "SECONDS_ALONE", 0.0)
    monkeypatch.setattr(_sklearn, "SECONDS_TO_SHARE", 0.0)
    monkeypatch.chdir(tmp_path)
    prompts = batch(40)
    lasso = Lasso(1e-6, max_iter=1)
    several, alone = (from_sklearn(lasso, processes=number) for number in (2, 1))
    np.testing.assert_array_equal(several.predict(*prompts), alone.predict(*prompts))
    assert several.function.warnings == alone.function.warnings
    prompts[0][33] = np.nan
    with pytest.raises(InputError, match=r"Lasso .*prompt 33 of 40 .*NaN"):
        several.predict(*prompts)


@pytest.mark.slow
def test_processes_are_done_without_where_they_cannot_have_the_estimator(monkeypatch, tmp_path):
    monkeypatch.setattr(_sklearn, "SECONDS_ALONE", 0.0)
    monkeypatch.setattr(_sklearn, "SECONDS_TO_SHARE", 0.0)
    for estimator in (in_a_file(tmp_path), cannot_be_pickled(), cannot_be_unpickled()):
        several, alone = (from_sklearn(estimator, processes=number) for number in (2, 1))
        np.testing.assert_array_equal(several.predict(*batch()), alone.predict(*batch()))


@pytest.mark.slow
def test_a_process_that_ends_early_is_reported(monkeypatch):
    monkeypatch.setattr(_sklearn, "SECONDS_ALONE", 0.0)
    monkeypatch.setattr(_sklearn, "SECONDS_TO_SHARE", 0.0)
    here = os.getpid()

    class Ends(DummyRegressor):
        def fit(self, X, y):
            if os.getpid() != here:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().fit(X, y)

    with pytest.raises(InputError, match=r"Ends .*memory.*processes"):
        from_sklearn(Ends(), processes=2).predict(*batch())


def in_a_file(folder):
    """Of a class that another process cannot import."""
    file = folder / "nearest.py"
    file.write_text(
        "from sklearn.neighbors import KNeighborsRegressor\n"
        "class Nearest(KNeighborsRegressor):\n"
        "    pass\n"
    )
    return load(f"{file}:Nearest")(n_neighbors=2)


def cannot_be_pickled():
    class Held(DummyRegressor):
        def __reduce__(self):
            raise TypeError("not to be pickled")

    return Held()


def only_here(process):
    assert process == os.getpid()
    return DummyRegressor()


def cannot_be_unpickled():
    class Held(DummyRegressor):
        def __reduce__(self):
            return only_here, (os.getpid(),)

    return Held()


def test_what_learns_is_found_by_what_it_offers():
    ours = Ridge(0.3)
    assert as_learner(ours) is ours
    assert as_learner(Ridge, parameters={"penalty": 0.3}).penalty == 0.3
    assert as_learner("mesalens:Ridge", parameters={"penalty": 0.3}).penalty == 0.3
    for subject in (ridge, functools.partial(ridge), lambda xs, ys, q, scale=2.0: q):
        assert as_learner(subject).function is subject
    prompt, _ = TASK.sample(KEY)
    for subject in (lambda prompt: prompt.ys[0], jax.jit(lambda prompt, k=0: prompt.ys[k])):
        learner = as_learner(subject)
        assert isinstance(learner, PromptFunction)
        np.testing.assert_array_equal(learner(prompt), prompt.ys[0])
    assert isinstance(as_learner(lambda *arrays: arrays[2]), NumpyLearner)
    assert isinstance(as_learner(TheirRidge).function.estimator, TheirRidge)
    place = "sklearn.neighbors:KNeighborsRegressor"
    near = as_learner(place, parameters={"n_neighbors": 2})
    assert near.function.estimator.n_neighbors == 2


def test_a_function_without_arguments_makes_what_learns():
    assert as_learner(lambda: TheirRidge(2.0)).function.estimator.alpha == 2
    assert as_learner(lambda: ridge).function is ridge
    assert as_learner(lambda alpha=1.0: TheirRidge(alpha), parameters={"alpha": 3.0}).function
    assert as_learner(lambda: mean_label, adapter="numpy").function is mean_label


def test_arrays_of_a_function_of_a_prompt_can_be_trained():
    weights = eqx.nn.Linear(3, 2, key=KEY)

    class Module(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, prompt):
            return self.linear(prompt.query)

    learner = as_learner(Module(weights))
    assert len(jax.tree.leaves(eqx.filter(learner, learner.trainable()))) == 2
    assert np.isfinite(risk(learner, TASK, KEY, prompts=20).value)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: from_sklearn(KNeighborsRegressor(6)).predict(*batch()), "KNeighbors.*n_neighbors"),
        (lambda: risk(from_sklearn(KNeighborsRegressor(6)), TASK, KEY), "n_neighbors = 6"),
        (lambda: from_sklearn(TheirRidge(-1.0)).predict(*batch()), "Ridge .*alpha"),
        (lambda: from_sklearn(Mean()).predict(*batch(n=6)), "Mean .*more than five"),
        (lambda: from_sklearn(LogisticRegression()).predict(*batch()), "classifier.*one-hot"),
        (lambda: from_sklearn(LogisticRegression()).predict(*batch(m=2)), "classifier.*one-hot"),
        (lambda: from_sklearn(TheirRidge(), parameters={"alhpa": 1.0}), "alhpa.*alpha"),
        (lambda: from_sklearn(TheirRidge, parameters={"alhpa": 1.0}), "alhpa.*alpha"),
        (lambda: from_sklearn(Mean(), parameters={"power": 1.0}), "Mean .*power"),
        (lambda: from_sklearn(Mean, parameters={"strength": 1.0}), "Mean .*strength"),
        (lambda: from_sklearn(ridge), "fit and predict.*ridge"),
        (lambda: from_sklearn(TheirRidge(), processes=0), "processes"),
        (lambda: as_learner(3), "int"),
        (lambda: as_learner(None), "NoneType"),
        (lambda: as_learner(lambda xs, ys: xs), "lambda.*adapter"),
        (lambda: as_learner(ridge, adapter="jaxx"), "jaxx.*jax"),
        (lambda: as_learner(3, adapter="numpy"), "int .*numpy"),
        (lambda: as_learner(ridge, adapter="sklearn"), "fit and predict"),
        (lambda: as_learner(Ridge(0.3), adapter="numpy"), "Ridge .*numpy"),
        (lambda: as_learner(Ridge(0.3), parameters={"penalty": 1.0}), "Ridge .*penalty"),
        (lambda: as_learner(Ridge, parameters={"penality": 1.0}), "penality.*penalty"),
        (lambda: as_learner(Ridge, parameters={"penalty": -1.0}), "penalty.*-1"),
        (lambda: as_learner(ridge, parameters={"strength": 1.0}), "ridge.*strength"),
        (lambda: as_learner(lambda: lambda: 3), "lambda"),
        (lambda: as_learner(lambda: 1 / 0), "ZeroDivisionError"),
        (lambda: as_learner("ridge"), "ridge"),
        (lambda: as_learner("sklearn.linear_model:Rigde"), "Rigde"),
        (lambda: as_learner("nowhere.py:model"), "nowhere.py"),
    ],
)
def test_what_cannot_be_adapted_gets_a_sentence(make, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=named) as caught:
        make()
    assert "\n" not in str(caught.value) and str(caught.value)[-1] in ".?"


@pytest.mark.parametrize("place", ["sklearn.linear_model:Ridge", "torch.nn:Linear"])
def test_what_to_install_is_said(place, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    package = place.partition(".")[0]
    with pytest.raises(InputError, match=rf"install mesalens\[{package}\]"):
        as_learner(place)
    with pytest.raises(InputError, match=r"install mesalens\[torch\]"):
        as_learner(ridge, adapter="torch")
