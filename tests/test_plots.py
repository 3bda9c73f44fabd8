"""Figures show what they are given, in characters that fit."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from mesalens import plots


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def ticks(axis):
    return [
        (place, label.get_text())
        for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    ]


def test_an_attention_map_counts_rows_from_1_and_names_the_last_of_ten(axes):
    plots.attention_map(axes, np.ones((11, 10)))
    assert ticks(axes.xaxis) == [(0, "1"), (4, "5"), (9, "10")]
    assert ticks(axes.yaxis) == [(0, "1"), (4, "5"), (9, "10")]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("attended row", "attending row")


def test_attention_that_is_a_share_has_no_negative_colours_and_equal_weights_look_alike(axes):
    share = np.array([[0.25, 0.75], [0.0, 0.5]])
    image = plots.attention_map(axes, share, limit=1.0)
    assert image.get_clim() == (0.0, 1.0)
    signed = plots.attention_map(axes, share - 0.5, limit=1.0)
    assert signed.get_clim() == (-1.0, 1.0)
    for weight in (0.0, 0.25, 0.75):
        np.testing.assert_allclose(image.to_rgba(weight), signed.to_rgba(weight), atol=0.02)


def test_the_numbers_of_a_similarity_map_fit_into_its_cells(axes):
    values = {
        570.0: "6e2",
        99.0: "99",
        1e12: "1e12",
        1.0: "1",
        0.123: "0.12",
        3.4e-5: "3e−5",
        0.0: "0",
        np.inf: "inf",
        np.nan: "nan",
    }
    difference = xr.DataArray(np.array([[*values]]), dims=("layer", "iterate"))
    nearest = xr.DataArray([0], dims="layer")
    plots.similarity_map(axes, xr.Dataset({"difference": difference, "nearest": nearest}))
    assert [text.get_text() for text in axes.texts] == [*values.values()]
    assert all(len(text.get_text()) <= 4 for text in axes.texts)


@pytest.mark.parametrize("seeds", [None, 1, 3])
def test_a_curve_is_the_mean_with_a_band_from_the_least_to_the_greatest_seed(axes, seeds):
    step = np.arange(4)
    values = np.random.default_rng(0).normal(size=(seeds or 1, 4))
    data = xr.DataArray(values, dims=("seed", "step"), coords={"step": step})
    plots.curve(axes, data if seeds else data[0], color="C0", label="x")
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_ydata(), values.mean(0))
    np.testing.assert_array_equal(line.get_xdata(), step)
    assert len(axes.collections) == (seeds == 3)
    if seeds == 3:
        edges = axes.collections[0].get_paths()[0].vertices
        for at in step:
            heights = edges[edges[:, 0] == at, 1]
            np.testing.assert_allclose(
                [heights.min(), heights.max()], [values[:, at].min(), values[:, at].max()]
            )


def test_a_curve_of_two_dimensions_is_refused(axes):
    with pytest.raises(ValueError):
        plots.curve(axes, xr.DataArray(np.zeros((2, 3)), dims=("step", "layer")), color="C0")


def test_a_sweep_whose_runs_have_a_loss_before_the_first_step_alone_is_drawn():
    loss = np.full((2, 1, 3), np.nan)
    loss[..., 0] = 1.0
    coordinates = {"rate": [0.1, 0.2], "seed": [0], "step": [0, 1, 2]}
    metrics = xr.Dataset({"loss": (tuple(coordinates), loss)}, coordinates)
    metrics = metrics.assign_coords(ending=(("rate", "seed"), [["diverged"]] * 2))
    figure = plots.sweep_figure(metrics)
    figure.canvas.draw()
    assert [panel.get_yscale() for panel in figure.axes] == ["linear", "linear"]
    plt.close(figure)
