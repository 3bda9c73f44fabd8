"""What a gradient step costs, as XLA counts it: bounds that no clock blurs.

A bound is what was counted when it was written, and a tenth more. A sum that is computed anew for
each of its uses, or an array of all pairs of tokens, goes beyond it.
"""

import jax
import pytest

from mesalens import LinearTransformer, Transformer, random
from mesalens.models import LinearAttention, SoftmaxAttention
from mesalens.program_cache import often
from mesalens.tasks import LinearFunctions, RegressionTask, Uniform
from mesalens.training import SquaredError
from mesalens.training.parallel import bytes_of

BATCH = 64


def linear(layers, **options):
    return lambda dim: LinearTransformer.initialise(
        dim, layers=layers, key=random.key(0), **options
    )


def softmax_first(dim):
    kinds = {"attention": LinearAttention(), "first_attention": SoftmaxAttention()}
    return Transformer.initialise(dim, layers=2, **kinds, key=random.key(0))


def counted(model, dim, context_length):
    """Operations and bytes for each prompt: arithmetic, memory accesses, and memory in all."""
    task = RegressionTask(Uniform(dim), LinearFunctions(dim), context_length=context_length)
    gradient = jax.value_and_grad(SquaredError().loss(task, BATCH))
    lowered = jax.jit(gradient, compiler_options=often()).lower(model(dim), random.key(0))
    program = lowered.compile()
    costs = program.cost_analysis()
    return costs["flops"] / BATCH, costs["bytes accessed"] / BATCH, bytes_of(program) / BATCH


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="counted on CPUs")
@pytest.mark.parametrize(
    ("model", "dim", "context_length", "bounds"),
    [
        (linear(1), 10, 10, (1.1 * 11_241, 1.1 * 5_469, 1.1 * 1_073)),
        (linear(2), 10, 10, (1.1 * 39_867, 1.1 * 21_521, 1.1 * 2_457)),
        (linear(2), 10, 100, (1.1 * 125_006, 1.1 * 45_734, 1.1 * 9_196)),
        pytest.param(
            linear(5), 10, 10, (1.1 * 146_680, 1.1 * 79_050, 1.1 * 10_111), marks=pytest.mark.slow
        ),
        pytest.param(
            linear(5, activation_clip=10.0),
            10,
            10,
            (1.1 * 150_093, 1.1 * 81_034, 1.1 * 10_111),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            linear(5),
            40,
            10,
            (1.1 * 1_215_614, 1.1 * 323_578, 1.1 * 48_377),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            softmax_first, 10, 10, (1.1 * 43_265, 1.1 * 27_091, 1.1 * 2_829), marks=pytest.mark.slow
        ),
    ],
    ids=["one layer", "tokens", "sums", "five layers", "clipped", "wide", "softmax"],
)
def test_a_step_costs_no_more(model, dim, context_length, bounds):
    costs = counted(model, dim, context_length)
    assert all(cost <= bound for cost, bound in zip(costs, bounds, strict=True)), costs
