"""Condensed prompts: few rows with the S of many examples, and S drawn itself with the right law."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.stats
from compiled import compiled, mapped

from mesalens import (
    GradientDescent,
    InputError,
    LeastSquares,
    LinearTransformer,
    Prompt,
    Ridge,
    random,
)
from mesalens.analysis import risk, sensitivity
from mesalens.learners import BayesianRegression
from mesalens.prompt import CondensedPrompt
from mesalens.tasks import (
    CondensedTask,
    Constants,
    Distractors,
    FinitePool,
    Gaussian,
    GaussianNoise,
    HeteroscedasticNoise,
    LaplaceNoise,
    LinearFunctions,
    RegressionTask,
    StudentTNoise,
    Uniform,
)
from mesalens.theory import one_step_risk
from mesalens.training import TrainingSettings

SIGMA = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
LAMBDA = np.array([[1.0, 0.4, 0.1], [0.4, 0.5, 0.0], [0.1, 0.0, 2.0]])
WEIGHTS = np.array([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]])
GAUSSIAN = Gaussian(3, 0.8, covariance=SIGMA)


def task_of(n, *, covariance=LAMBDA, mean=WEIGHTS, noise=0.3, outputs=2):
    functions = LinearFunctions(3, outputs, scale=0.7, covariance=covariance, mean=mean)
    return RegressionTask(GAUSSIAN, functions, context_length=n, noise=GaussianNoise(noise))


def prompt_of(n=40, d=3, m=2, batch=()):
    rng = np.random.default_rng(0)
    return Prompt(
        rng.normal(size=(*batch, n, d)),
        rng.normal(size=(*batch, n, m)),
        rng.normal(size=(*batch, d)),
    )


def tokens(prompt):
    return np.concatenate(prompt.rows, axis=-1).astype(np.float64)


def second_moments(prompt):
    """S of each prompt."""
    e = tokens(prompt)
    return e.swapaxes(-1, -2) @ e


def draw(task, prompts, seed=0):
    """S, query and target of many prompts, in float64."""
    drawn, targets = jax.jit(lambda key: task.sample(key, (prompts,)))(random.key(seed))
    return (
        second_moments(drawn),
        np.asarray(drawn.query, np.float64),
        np.asarray(targets, np.float64),
    )


def assert_mean(terms, exact, errors=5.0):
    """The mean of independent terms is the exact one, by the standard error of each entry."""
    distance = np.abs(terms.mean(0) - exact) / (terms.std(0) / np.sqrt(len(terms)))
    assert distance.max() < errors


def test_condense_keeps_n_and_s():
    with jax.enable_x64(True):
        prompt = prompt_of(batch=(4,))
        condensed = prompt.condense()
        np.testing.assert_allclose(
            second_moments(condensed), second_moments(prompt), rtol=1e-12, atol=1e-12
        )
        np.testing.assert_array_equal(condensed.query, prompt.query)
    assert isinstance(condensed, CondensedPrompt)
    assert condensed.x_rows.shape == (4, 5, 3)
    assert condensed.y_rows.shape == (4, 5, 2)
    assert condensed.context_length == prompt.context_length == 40


def test_a_condensed_prompt_has_no_examples():
    condensed = prompt_of(n=6).condense()
    for read in (lambda: condensed.xs, lambda: condensed.ys):
        with pytest.raises(InputError, match="condensed"):
            read()


def transformer(layers):
    learner = LinearTransformer.initialise(
        3, 2, layers=layers, init_scale=0.5, key=random.key(layers)
    )
    return jax.tree.map(lambda leaf: leaf.astype(float), learner)


@pytest.mark.slow
def test_learners_that_see_s_and_n_answer_alike():
    def answers(prompt):
        three = transformer(3)
        return {
            "one layer": transformer(1)(prompt),
            "three layers": three(prompt),
            "token by token": three.token_by_token(prompt),
            "descent": GradientDescent(0.3, 4)(prompt),
            "ridge": Ridge(0.4)(prompt),
            "least squares": LeastSquares()(prompt),
            "bayes": BayesianRegression(LAMBDA, 0.4, prior_mean=WEIGHTS)(prompt),
            "sensitivity": sensitivity(three, prompt),
        }

    with jax.enable_x64(True):
        prompt = prompt_of()
        of_examples, of_condensed = (
            eqx.filter_jit(answers)(p) for p in (prompt, prompt.condense())
        )
    for name, expected in of_examples.items():
        np.testing.assert_allclose(
            of_condensed[name],
            expected,
            rtol=1e-11,
            atol=1e-11 * np.abs(expected).max(),
            err_msg=name,
        )


def test_gradients_are_alike():
    with jax.enable_x64(True):
        prompt, target, three = prompt_of(), jnp.array([0.3, -1.0]), transformer(3)
        gradient = eqx.filter_jit(
            eqx.filter_grad(lambda learner, p: jnp.sum((learner(p) - target) ** 2))
        )
        of_examples, of_condensed = gradient(three, prompt), gradient(three, prompt.condense())
    for now, before in zip(
        jax.tree.leaves(of_condensed), jax.tree.leaves(of_examples), strict=True
    ):
        np.testing.assert_allclose(now, before, rtol=1e-10, atol=1e-11 * np.abs(before).max())


def test_a_batch_of_condensed_prompts_is_mapped_over():
    batch = prompt_of(batch=(4,)).condense()
    descent = GradientDescent(0.3)
    predictions = mapped(descent, batch)
    for i in range(4):
        one = CondensedPrompt(batch.x_rows[i], batch.y_rows[i], batch.query[i], 40)
        np.testing.assert_allclose(predictions[i], compiled(descent, one), rtol=1e-5)
    assert mapped(lambda prompt: sensitivity(descent, prompt), batch).shape == (4, 2, 3)


@pytest.mark.slow
def test_given_the_function_s_is_wishart(n=7):
    """E[S_ij S_kl] = n² Ω_ij Ω_kl + n (Ω_ik Ω_jl + Ω_il Ω_jk), Ω = E[e e^T | W]."""
    W, sigma, noise = 0.7 * WEIGHTS, 0.64 * SIGMA, 0.3
    omega = np.block([[sigma, sigma @ W.T], [W @ sigma, W @ sigma @ W.T + noise * np.eye(2)]])
    S, query, target = draw(CondensedTask(task_of(n, covariance=np.zeros((3, 3)))), 50_000)
    assert_mean(S, n * omega)
    second = n**2 * np.einsum("ij,kl->ijkl", omega, omega)
    second += n * (np.einsum("ik,jl->ijkl", omega, omega) + np.einsum("il,jk->ijkl", omega, omega))
    assert_mean(np.einsum("pij,pkl->pijkl", S, S), second)
    e = np.concatenate([query, target], axis=1)
    assert_mean(np.einsum("pi,pj->pij", e, e), omega)
    # given W, the query and its label are independent of the context
    assert_mean(np.einsum("pa,pij->paij", e, S - n * omega), 0)
    assert_mean(np.einsum("pa,pb,pij->pabij", e, e, S - n * omega), 0)


@pytest.mark.slow
def test_context_and_target_share_the_function():
    """E[x_q y_q s^T] = n ΣΛΣ and E[s s^T] = n(n+1) ΣΛΣ + n (tr(ΣΛ) + σ²) Σ, s = Σ_i y_i x_i, for each output."""
    n, sigma, noise = 9, 0.64 * SIGMA, 0.3
    prior = 0.49 * LAMBDA
    S, query, target = draw(CondensedTask(task_of(n, mean=None)), 100_000)
    both = n * (n + 1) * sigma @ prior @ sigma + n * (np.trace(sigma @ prior) + noise) * sigma
    for k in range(2):
        s = S[:, :3, 3 + k]
        assert_mean(np.einsum("pi,p,pj->pij", query, target[:, k], s), n * sigma @ prior @ sigma)
        assert_mean(np.einsum("pi,pj->pij", s, s), both)
        assert_mean(
            np.einsum("pi,p,pj->pij", query, target[:, k], S[:, :3, 4 - k]), 0
        )  # the other output's function


def functionals(task, seed):
    """What two laws of (S, query, target) are compared by."""
    S, query, target = draw(task, 20_000, seed)
    projection = np.random.default_rng(1).normal(size=(3, S.shape[-1], S.shape[-1]))
    eigenvalues = np.linalg.eigvalsh(S)
    prediction = 0.05 * np.einsum("pij,pi->pj", S[:, :3, 3:], query)
    values = {
        f"projection {i}": np.einsum("ij,pij->p", direction, S)
        for i, direction in enumerate(projection)
    }
    values |= {f"entry {i}, {i}": S[:, i, i] for i in range(S.shape[-1])}
    values |= {f"descent {k}": prediction[:, k] for k in range(prediction.shape[1])}
    values |= {f"loss {k}": (prediction - target)[:, k] for k in range(prediction.shape[1])}
    values |= {
        "trace": np.trace(S, axis1=1, axis2=2),
        "greatest": eigenvalues[:, -1],
        "target": target[:, 0],
    }
    if task.task.noise.variance if isinstance(task, CondensedTask) else task.noise.variance:
        return values | {"log det": np.log(eigenvalues).sum(1), "least": eigenvalues[:, 0]}
    return values | {"log det of inputs": np.linalg.slogdet(S[:, :3, :3])[1]}


def least_p_value(first, second):
    """The least p-value of two-sample Kolmogorov–Smirnov tests, times how many there are (Bonferroni)."""
    p_values = [scipy.stats.ks_2samp(first[name], second[name]).pvalue for name in first]
    return len(p_values) * min(p_values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, pytest.param({"noise": 0.0}, marks=pytest.mark.slow)], ids=["noise", "no noise"]
)
def test_the_direct_draw_has_the_law_of_examples(options):
    task = task_of(12, **options)
    direct = functionals(CondensedTask(task), 1)
    assert least_p_value(functionals(task, 2), direct) > 1e-4
    assert (
        least_p_value(functionals(CondensedTask(task_of(11, **options)), 3), direct) < 1e-20
    )  # the tests see an example more or less


def test_the_direct_draw_for_a_pool_has_the_law_of_examples():
    def pool_of(seed):
        functions = FinitePool(3, 2, size=4, scale=0.7, pool_seed=seed)
        return RegressionTask(GAUSSIAN, functions, context_length=12, noise=GaussianNoise(0.3))

    direct = functionals(CondensedTask(pool_of(1)), 1)
    assert least_p_value(functionals(pool_of(1), 2), direct) > 1e-4
    assert least_p_value(functionals(pool_of(2), 3), direct) < 1e-20


def test_a_second_draw_outside_a_jitted_function_compiles_nothing(caplog):
    task = CondensedTask(task_of(12))
    task.sample(random.key(0), (5,))
    with jax.log_compiles():
        task.sample(random.key(1), (5,))
    assert not [each for each in caplog.messages if "Compiling" in each]


@pytest.mark.parametrize(
    ("n", "noise", "rows"),
    [(3, 0.0, 3), (4, 0.0, 3), (2, 0.3, 2), (5, 0.3, 5), (6, 0.3, 5), (5, jnp.array(0.0), 5)],
)
def test_prompts_are_condensed_for_every_n_with_no_more_rows_than_examples(n, noise, rows):
    task = CondensedTask(task_of(n, noise=noise))
    prompts, targets = jax.eval_shape(lambda: task.sample(random.key(0), (2, 7)))
    assert isinstance(prompts, CondensedPrompt)
    assert prompts.x_rows.shape == (2, 7, rows, 3)
    assert prompts.y_rows.shape == (2, 7, rows, 2)
    assert targets.shape == (2, 7, 2)
    assert prompts.context_length == task.context_length == n
    assert (task.dim, task.outputs) == (3, 2)


def test_few_rows_are_the_examples_of_the_task():
    task = task_of(4)
    (condensed, target), (prompt, same) = (
        compiled(each.sample, random.key(1), (3,)) for each in (CondensedTask(task), task)
    )
    np.testing.assert_array_equal(condensed.x_rows, prompt.xs)
    np.testing.assert_array_equal(condensed.y_rows, prompt.ys)
    np.testing.assert_array_equal(target, same)


def test_a_million_examples():
    n = 1_000_000
    S, _, _ = draw(CondensedTask(task_of(n)), 500)
    sigma = 0.64 * SIGMA
    learned = np.linalg.solve(S[:, :3, :3], S[:, :3, 3:]).swapaxes(1, 2)
    residual = S[:, 3:, 3:] - learned @ S[:, :3, 3:]
    fluctuation = np.sqrt(2 / n)  # of a variance, relative
    assert np.abs(S[:, :3, :3] / n - sigma).max() < 6 * fluctuation * sigma.max()
    assert np.abs(residual / n - 0.3 * np.eye(2)).max() < 6 * fluctuation * 0.3
    assert_mean(learned.reshape(500, 6), 0.7 * WEIGHTS.ravel())
    assert np.std(S[:, 0, 0] / n / sigma[0, 0]) == pytest.approx(fluctuation, rel=0.15)


def test_risk_of_a_step_is_the_exact_one():
    task = task_of(1000, mean=None)
    theory = one_step_risk(task)
    estimate = risk(
        GradientDescent(theory.best_step_size), CondensedTask(task), random.key(5), prompts=40_000
    )
    assert abs(float(estimate.value) - theory.best_risk) < 5 * float(estimate.standard_error)


@pytest.mark.slow
def test_training_on_condensed_prompts():
    settings = TrainingSettings(
        task={"dim": 3, "context_length": 500, "covariates": "gaussian", "condensed": True},
        steps=20,
        batch_size=64,
        every=10,
    )
    assert isinstance(settings.sampled_task(), CondensedTask)
    assert isinstance(settings.exact_task(), RegressionTask)
    assert np.isfinite(settings.train().metrics.loss.isel(step=-1)).all()
    assert isinstance(TrainingSettings().sampled_task(), RegressionTask)


@pytest.mark.parametrize("nu", [1, 5, 1_000_000])
def test_chi_squared_has_its_law(nu):
    draws = np.asarray(random.chi_squared(random.key(nu), nu, (200_000,)), np.float64)
    assert scipy.stats.kstest(draws, scipy.stats.chi2(nu).cdf).pvalue > 1e-4
    np.testing.assert_allclose(draws.mean(), nu, rtol=5 * np.sqrt(2 / nu / len(draws)))
    assert draws.var() == pytest.approx(2 * nu, rel=5 * np.sqrt((2 + 12 / nu) / len(draws)))
    for tail in (1e-3, 1e-4):
        for beyond in (
            draws > scipy.stats.chi2.isf(tail, nu),
            draws < scipy.stats.chi2.ppf(tail, nu),
        ):
            assert abs(beyond.sum() - tail * len(draws)) < 5 * np.sqrt(tail * len(draws))


def test_chi_squared_of_many_degrees_at_once_and_mapped_over_keys():
    nu = np.array([0.5, 3.0, 40.0])
    sample = jax.jit(jax.vmap(lambda key: random.chi_squared(key, nu, (50_000, 3))))
    draws = np.asarray(sample(jax.random.split(random.key(1), 2)), np.float64)
    assert abs(np.corrcoef(draws[0, :, 1], draws[1, :, 1])[0, 1]) < 5 / np.sqrt(50_000)
    assert np.abs(np.corrcoef(draws[0].T) - np.eye(3)).max() < 5 / np.sqrt(50_000)
    for i in range(3):
        assert scipy.stats.kstest(draws[..., i].ravel(), scipy.stats.chi2(nu[i]).cdf).pvalue > 1e-4


def distracted(count):
    functions = LinearFunctions(2)
    return RegressionTask(Gaussian(2), functions, context_length=9, distractors=Distractors(count))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: CondensedTask(RegressionTask(Uniform(2), LinearFunctions(2), context_length=9)),
            "covariates.*Uniform",
        ),
        (
            lambda: CondensedTask(RegressionTask(Gaussian(2), Constants(2), context_length=9)),
            "functions.*Constants",
        ),
        (lambda: CondensedTask(distracted(1)), "distractors"),
        (lambda: CondensedTask(distracted(jnp.array(0))), "distractors"),
        (
            lambda: CondensedPrompt(np.ones((3, 2)), np.ones((3, 1)), np.ones(2), 2),
            "context_length.*2",
        ),
        *(
            (
                lambda noise=noise: CondensedTask(dataclasses.replace(task_of(9), noise=noise)),
                f"noise.*{type(noise).__name__}",
            )
            for noise in (LaplaceNoise(0.3), StudentTNoise(0.3), HeteroscedasticNoise(0.3))
        ),
        (lambda: CondensedTask(task_of(9).functions), "task.*RegressionTask"),
        (lambda: random.chi_squared(random.key(0), 0.0, (2,)), "degrees"),
        (
            lambda: TrainingSettings(
                task={"condensed": True, "covariates": "uniform"}
            ).sampled_task(),
            "Uniform",
        ),
    ],
)
def test_bad_input_gets_a_sentence(make, sentence, monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as where types are not checked
    with pytest.raises(InputError, match=sentence) as caught:
        make()
    assert str(caught.value).endswith(".")
