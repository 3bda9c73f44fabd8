"""Copying: what the first layer's rows have from where."""

import numpy as np
import pytest
from compiled import compiled

from mesalens import InputError, random
from mesalens.analysis import attention_maps, copying, copying_at
from mesalens.learners import GradientDescent
from mesalens.models import Causal, Sinusoidal, Transformer
from mesalens.tasks import LinearFunctions, RegressionTask, Uniform
from mesalens.theory import copying_transformer

DIM, LENGTH = 2, 4
TASK = RegressionTask(Uniform(DIM, 1.0), LinearFunctions(DIM), context_length=LENGTH)


def constructed(sharpness, visibility=None):
    return compiled(
        copying_transformer,
        GradientDescent(0.5),
        dim=DIM,
        context_length=LENGTH,
        positions=Sinusoidal(12),
        sharpness=sharpness,
        visibility=visibility,
    )


def test_a_layer_that_copies_has_its_y_and_nothing_else():
    found = copying(constructed(60.0), TASK, random.key(0), prompts=64)
    np.testing.assert_allclose(found.attention.value, 1, atol=1e-5)
    np.testing.assert_allclose(
        found.next.value, 1, atol=1e-3
    )  # y goes into an entry of its own, unchanged
    assert found.other.value < 1e-3
    np.testing.assert_allclose(
        found.own.value, np.sqrt(DIM + 1), rtol=1e-3
    )  # the row itself, by the skip connection


def test_a_layer_that_looks_everywhere_does_not():
    found = copying(constructed(1e-6), TASK, random.key(0), prompts=64)
    np.testing.assert_allclose(found.attention.value, 1 / (2 * LENGTH), rtol=1e-5)
    np.testing.assert_allclose(found.next.value, found.other.value, rtol=1e-4)


def test_a_layer_that_copies_backwards_does_not_copy_to_x():
    found = copying(constructed(60.0, visibility=Causal()), TASK, random.key(0), prompts=64)
    assert found.attention.value < 1e-3 and found.next.value < 1e-3


@pytest.mark.slow
def test_attention_maps_are_means_of_attention():
    model = constructed(2.0)
    maps = np.asarray(attention_maps(model, TASK, random.key(3), prompts=32))
    rows = 2 * LENGTH + 1
    assert maps.shape == (2, 1, rows, rows - 1)
    np.testing.assert_allclose(maps[0].sum(-1), 1, rtol=1e-5)
    single = model.attention_weights(TASK.sample(random.key(4))[0])
    np.testing.assert_allclose(
        maps[0], single[0], rtol=1e-4
    )  # the first layer looks at positions alone


def test_joint_tokens_get_a_sentence():
    prompt, _ = TASK.sample(random.key(5))
    with pytest.raises(InputError, match=r"copying .*Interleaved.*Joint"):
        copying_at(Transformer.initialise(DIM, key=random.key(0)), prompt)
