"""The standard figures show every seed, and their texts do not overlap or leave the figure."""

import itertools

import numpy as np
import pytest
import xarray as xr
from matplotlib.text import Text

from mesalens import plots
from mesalens.atlas import figures
from mesalens.atlas.experiment import Experiment, LeftPlateau, Runs, Trained

STEPS = np.arange(0, 1001, 50)


def runs_that_end_at(*ends: float, prefixes=("",)) -> Runs:
    """Synthetic runs whose risk goes from 1 to the given values; those above 0.7 do not count."""
    rule = LeftPlateau(null=lambda run: 1.0, reference=lambda run: 0.4)
    experiment = Experiment(task={"kind": "regression"}, steps=1000, counts=rule)
    runs = []
    for seed, end in enumerate(ends):
        fall = 1 - np.exp(-STEPS / 150)
        measures = {"risk": 1 + (end - 1) * fall}
        for prefix in prefixes:
            measures |= {
                f"{prefix}relative_prediction_difference": 1 - fall * (1 - end / 3),
                f"{prefix}cosine": fall * (1 - end / 9),
                f"{prefix}relative_sensitivity_difference": 1 - fall * (1 - end / 4),
            }
        metrics = xr.Dataset(
            {name: ("step", values) for name, values in measures.items()},
            {"step": STEPS, "ending": "steps", "steps_taken": 1000},
        )
        runs.append(Trained("one-layer", experiment, seed, None, None, metrics))
    return Runs(runs)


def curvature(seeds: int = 0, scale: float = 1.0) -> xr.Dataset:
    rng = np.random.default_rng(0)
    one = xr.Dataset(
        {
            "eigenvalues": (
                ("layer", "prompt", "eigenvalue"),
                rng.exponential(size=(3, 50, 4)) * scale,
            ),
            "log_condition": ("layer", [5.0, 3.0, 1.0]),
            "step_risk": ("layer", [0.5, 0.4, 0.3]),
            "step_risk_standard_error": ("layer", [0.02] * 3),
        },
        {"layer": [0, 1, 2]},
    )
    return (
        xr.concat([one] * seeds, xr.DataArray(range(seeds), dims="seed", name="seed"))
        if seeds
        else one
    )


def sweep(labels, seeds: int = 4) -> xr.DataArray:
    values = np.random.default_rng(1).uniform(0.2, 0.4, (seeds, len(labels)))
    counted = np.arange(seeds) != 1
    return xr.DataArray(
        values,
        {"seed": np.arange(seeds), "size": list(labels), "counted": ("seed", counted)},
        ("seed", "size"),
    )


def every_figure():
    rng = np.random.default_rng(0)
    runs = runs_that_end_at(0.4, 0.42, 0.95, 0.41, prefixes=("descent_", "plus_plus_"))
    lines = {"one step of gradient descent, exact": 0.4, "predicting 0, exact": 1.0}
    matrix = rng.normal(size=(11, 11))
    references = {"gradient descent": "descent_", "GD++": "plus_plus_"}
    words = {"A, seed 0": "A", "A, GD++": "A", "B, seed 0": "B", "B, GD++": "B"}
    layers = {row: {f"layer {n}": matrix for n in range(1, 6)} for row in words}
    sizes = [f"d={d}, n={n}" for d, n in ((2, 5), (5, 10), (10, 10), (20, 40), (40, 80), (50, 100))]
    xs = np.geomspace(1, 100, 30)
    theory = {"one step": (xs, 0.5 / xs**0.2), "predicting 0": (xs, np.ones(30))}
    attention = {"one prompt": np.abs(matrix), "mean over prompts": np.abs(matrix)}
    return {
        "risk": figures.risk_over_training({"trained layers": runs}, lines),
        "risk-many": figures.risk_over_training(
            {f"softmax attention, {n} heads": runs for n in range(1, 6)},
            {**lines, "… on centred inputs, exact": 0.5},
            log=True,
            title="Five of them",
        ),
        "alignment": figures.alignment_over_training(
            {"2 layers": runs, "5 layers": runs}, references
        ),
        "matrices": figures.matrices(
            {"$A = W_K^T W_Q$": {"trained (seed 0)": matrix, "constructed": matrix}}, split=10
        ),
        "matrices-many": figures.matrices(layers, split=10, limits="panel"),
        "attention": figures.attention_maps({"first layer": attention, "second layer": attention}),
        "against": figures.risk_against(
            "context length n", theory, {"trained layers": sweep([1, 10, 100])}, xscale="log"
        ),
        "against-words": figures.risk_against(
            "size",
            {"one step, exact": (sizes, np.full(6, 0.3))},
            {"trained layers": sweep(sizes), "interpolated layers": sweep(sizes)},
        ),
        "spectra": figures.spectra({"trained": curvature(3), "GD++": curvature(scale=2)}),
    }


@pytest.fixture(scope="module")
def drawn():
    """The figures, each with the texts that were drawn."""
    shown: list[Text] = []
    draw = Text.draw

    def record(text, renderer):
        shown.append(text)
        return draw(text, renderer)

    with plots.style(), pytest.MonkeyPatch.context() as patch:
        made = every_figure()
        patch.setattr(Text, "draw", record)
        texts = {}
        for name, figure in made.items():
            shown.clear()
            figure.draw_without_rendering()
            texts[name] = [
                text for text in dict.fromkeys(shown) if text.get_text() and text.get_visible()
            ]
        yield {name: (figure, texts[name]) for name, figure in made.items()}


def test_texts_have_one_size_do_not_overlap_and_lie_inside(drawn):
    for name, (figure, texts) in drawn.items():
        assert 6.5 <= figure.get_size_inches()[0] <= 9, name
        assert len(texts) > 8, name
        boxes = {text: text.get_window_extent() for text in texts}
        for text, box in boxes.items():
            assert text.get_fontsize() == 10, (name, text)
            inside = figure.bbox.padded(1)
            assert inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1), (name, text)
        # The boxes of slanted texts overlap where the texts do not
        straight = [text for text in texts if not text.get_rotation() % 90]
        for first, second in itertools.combinations(straight, 2):
            overlap = boxes[first].padded(-1).overlaps(boxes[second].padded(-1))
            assert not overlap, (name, first, second)


def test_every_seed_has_its_line_and_legends_hide_no_data(drawn):
    risk, _ = drawn["risk"]
    (axes,) = risk.axes
    assert sum(len(line.get_xdata()) == len(STEPS) for line in axes.lines) == 4
    labels = [text.get_text() for text in risk.legends[0].get_texts()]
    assert "trained layers, one line per seed" in labels
    assert "seeds that do not count" in labels
    for figure, _ in drawn.values():
        for legend in figure.legends:
            legend_box = legend.get_window_extent()
            assert not any(legend_box.overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_axes_of_one_figure_share_looks_and_one_legend():
    figure = figures.Figure((9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    runs = runs_that_end_at(0.4, 0.41)
    figures.risk_over_training({"a": runs, "b": runs}, {"exact": 0.4}, axes=left)
    figures.risk_over_training({"b": runs}, {"bound": 0.3, "exact": 0.4}, axes=right)
    (legend,) = figure.legends
    assert left.lines[2].get_color() == right.lines[0].get_color()
    assert left.lines[-1].get_color() == right.lines[-1].get_color()
    assert [text.get_text() for text in legend.get_texts()].count("exact") == 1
