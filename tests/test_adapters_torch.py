"""PyTorch modules as learners: both layouts, what is read, and what cannot be used."""

import jax
import jaxtyping
import numpy as np
import pytest

from mesalens import GradientDescent, InputError, Ridge, random
from mesalens.adapters import as_learner, from_torch
from mesalens.analysis import compare, risk, sensitivity
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask

torch = pytest.importorskip("torch")
small_gpt2 = pytest.importorskip("small_gpt2")
nn = torch.nn

KEY = random.key(0)
STEP_SIZE = 0.4


def prompts(m=2, size=20, n=5, d=3):
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((size, n, d)),
        rng.standard_normal((size, n, m)),
        rng.standard_normal((size, d)),
    )


def task(m=2, context_length=5, noise=0.01):
    return RegressionTask(
        Gaussian(3),
        LinearFunctions(3, m),
        context_length=context_length,
        noise=GaussianNoise(noise),
    )


def one_step(xs, ys, queries):
    return STEP_SIZE * (xs.mT @ ys / xs.shape[1]).mT @ queries[..., None]


class OnJointRows(nn.Module):
    """A step of gradient descent, as linear attention computes it: rows (x, y) get x and ŷ."""

    d = 3

    def forward(self, tokens):
        xs, ys = tokens[:, :-1, : self.d], tokens[:, :-1, self.d :]
        predictions = one_step(xs, ys, tokens[:, -1, : self.d])[..., 0]
        rows = tokens.clone()
        rows[:, -1, self.d :] = predictions
        return rows


class OnInterleavedTokens(nn.Module):
    m = 2

    def forward(self, tokens):
        xs, ys = tokens[:, 0:-1:2], tokens[:, 1::2, : self.m]
        return one_step(xs, ys, tokens[:, -1]).mT


class OnPrompts(nn.Module):
    def forward(self, xs, ys, queries):
        return one_step(xs, ys, queries)[..., 0]


@pytest.mark.parametrize(
    ("module", "layout"),
    [
        (OnJointRows(), "joint"),
        (OnInterleavedTokens(), "interleaved"),
        (OnPrompts(), lambda xs, ys, queries: (xs, ys, queries)),
    ],
)
def test_a_module_that_takes_a_step_of_gradient_descent_is_ours(module, layout):
    learner = from_torch(module.eval(), layout, batch_size=7)
    xs, ys, queries = prompts()
    expected = STEP_SIZE * np.einsum("bnd,bnm,bd->bm", xs, ys, queries) / 5
    np.testing.assert_allclose(learner.predict(xs, ys, queries), expected, rtol=1e-4, atol=1e-6)
    found = compare(learner, GradientDescent(STEP_SIZE), task(), KEY, prompts=50)
    assert measured(found, "prediction_difference") < 1e-5


def measured(comparison, measure):
    return comparison.value.sel(measure=measure).item()


class Remember(nn.Module):
    """Keeps what it is given and returns zeros of a shape."""

    def __init__(self, *shape, **options):
        super().__init__()
        self.shape = shape
        self.linear = nn.Linear(options.pop("width", 1), 1, **options)
        self.eval()

    def forward(self, tokens):
        self.tokens, self.gradients = tokens, torch.is_grad_enabled()
        return torch.arange(np.prod(self.shape), device=tokens.device).reshape(self.shape)


def test_tokens_of_both_layouts():
    xs, ys, queries = prompts(m=2, size=1, n=2)
    module = Remember(1, 2)
    from_torch(module).predict(xs, ys, queries)
    rows = [xs[0, 0], [*ys[0, 0], 0], xs[0, 1], [*ys[0, 1], 0], queries[0]]
    np.testing.assert_allclose(module.tokens[0], np.array(rows), rtol=1e-6)
    from_torch(module, "joint", width=6).predict(xs, ys, queries)
    rows = [[*xs[0, 0], *ys[0, 0], 0], [*xs[0, 1], *ys[0, 1], 0], [*queries[0], 0, 0, 0]]
    np.testing.assert_allclose(module.tokens[0], np.array(rows), rtol=1e-6)
    assert not module.gradients and module.tokens.dtype == torch.float32


def test_the_width_is_that_of_the_first_linear_layer_if_it_is_larger():
    module = Remember(20, 2, width=9)
    for layout in ("interleaved", "joint"):
        from_torch(module, layout).predict(*prompts())
        assert module.tokens.shape[2] == 9


def test_it_runs_in_the_precision_of_the_module():
    for dtype in (torch.float64, torch.bfloat16):
        module = Remember(20, 2, dtype=dtype)
        from_torch(module).predict(*prompts())
        assert module.tokens.dtype == dtype


@pytest.mark.parametrize(
    ("m", "layout", "shape", "read"),
    [
        (2, "joint", (20, 2), np.s_[:]),
        (1, "joint", (20,), np.s_[:, None]),
        (1, "interleaved", (20, 1), np.s_[:]),
        (1, "interleaved", (20, 11), np.s_[:, -1:]),
        (1, "interleaved", (20, 6, 1), np.s_[:, -1]),
        (2, "interleaved", (20, 11, 2), np.s_[:, -1]),
        (2, "joint", (20, 6, 2), np.s_[:, -1]),
        (2, "joint", (20, 6, 5), np.s_[:, -1, 3:]),
        (2, "joint", (20, 6, 8), np.s_[:, -1, 3:5]),
    ],
)
def test_where_the_prediction_is_read(m, layout, shape, read):
    found = from_torch(Remember(*shape), layout).predict(*prompts(m))
    np.testing.assert_array_equal(found, np.arange(np.prod(shape)).reshape(shape)[read])


def test_the_small_gpt2_has_learned_linear_regression():
    """Of its training task: about the risk of ridge regression, and nearly its predictions."""
    learner = as_learner(f"{small_gpt2.__file__}:model", adapter="torch")
    setting = task(1, small_gpt2.CONTEXT_LENGTH, small_gpt2.NOISE_VARIANCE)
    ridge = Ridge(small_gpt2.NOISE_VARIANCE)
    found = compare(learner, ridge, setting, KEY, prompts=2000)
    assert measured(found, "relative_difference") < 0.02
    assert measured(found, "risk") < 0.06


def test_a_module_or_what_makes_one_is_recognised():
    module = Remember(20, 2)
    for subject in (module, lambda: module):
        for adapter in (None, "torch"):
            learner = as_learner(subject, adapter=adapter, layout="joint")
            assert learner.function.module is module and learner.function.layout == "joint"


class Random(nn.Sequential):
    """In evaluation mode, but for a part of it."""

    def __init__(self):
        super().__init__(nn.Linear(3, 1), nn.Dropout())
        self.eval()
        self[1].train()


class Raises(nn.Module):
    def forward(self, tokens):
        raise RuntimeError("out of\nmemory")


def evaluated(module):
    return module.eval()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: from_torch(nn.Linear(3, 1)), r"Linear .*training.*eval\(\)"),
        (lambda: from_torch(Random()), r"Random .*training.*eval\(\)"),
        (lambda: from_torch(Ridge(0.3)), "Module.*Ridge"),
        (lambda: as_learner(Ridge(0.3), adapter="torch"), "Ridge .*torch"),
        (lambda: as_learner(lambda: 3, adapter="torch"), "Module.*int"),
        (lambda: from_torch(Remember(20, 2), "joined"), "joined.*joint"),
        (lambda: from_torch(Remember(20, 2), 3), "layout"),
        (lambda: from_torch(Remember(20, 2), width=0), "width"),
        (lambda: from_torch(Remember(20, 2), batch_size=0), "batch_size"),
        (lambda: from_torch(Remember(20, 2), device="nowhere"), "device 'nowhere'"),
        (lambda: from_torch(Remember(20, 2), width=2).predict(*prompts()), "3 covariates.*width=2"),
        (lambda: from_torch(Remember(20, 2), "joint", width=4).predict(*prompts()), "5.*width=4"),
        (
            lambda: from_torch(evaluated(nn.Linear(2, 1))).predict(*prompts(1)),
            r"\(20, 11, 3\).* 3 covariates and 1 outputs have 3 entries.* reads 2\.",
        ),
        (
            lambda: risk(from_torch(evaluated(nn.Linear(2, 1))), task(1), KEY),
            r"Linear .*\(2, 11, 3\)",
        ),
        (lambda: from_torch(evaluated(Raises())).predict(*prompts()), "Raises .*out of memory"),
        (lambda: from_torch(Remember(20, 2), lambda *p: 1 / 0).predict(*prompts()), "lambda.*Zero"),
        (lambda: from_torch(Remember(20, 2), list).predict(*prompts()), "layout list .*TypeError"),
        (lambda: from_torch(Remember(20, 7)).predict(*prompts()), r"\(20, 7\).*\(20, 2\)"),
        (lambda: from_torch(Remember(20, 11, 5)).predict(*prompts()), r"\(20, 11, 5\)"),
        (lambda: from_torch(Remember(19, 2)).predict(*prompts()), r"\(19, 2\).*20 prompts"),
        (lambda: from_torch(evaluated(nn.LSTM(3, 2))).predict(*prompts()), "LSTM .*tuple"),
        (lambda: sensitivity(from_torch(Remember(1, 2)), task().sample(KEY)[0]), "differentiable"),
        (lambda: as_learner(Remember(20, 2), parameters={"width": 3}), "Remember .*width"),
    ],
)
def test_what_cannot_be_used_gets_a_sentence(make, named, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=named) as caught:
        make()
    assert "\n" not in str(caught.value) and str(caught.value)[-1] in ".?"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there():
    with pytest.raises(InputError, match="device 'cuda' is not available"):
        from_torch(Remember(20, 2), device="cuda")


def test_a_module_that_went_into_training_mode_later():
    module = Remember(20, 2)
    learner = from_torch(module)
    module.train()
    with pytest.raises(InputError, match=r"eval\(\)"):
        learner.predict(*prompts())


def test_it_is_a_learner_under_jit_and_vmap():
    learner = from_torch(OnInterleavedTokens().eval())
    batch, _ = task().sample(KEY, (2, 3))
    found = jax.jit(jax.vmap(jax.vmap(lambda prompt: learner(prompt))))(batch)
    ours = jax.vmap(jax.vmap(GradientDescent(STEP_SIZE)))(batch)
    np.testing.assert_allclose(found, ours, rtol=1e-4, atol=1e-6)
