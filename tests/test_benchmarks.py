"""The benchmarks compare what is the same, count what they say, and write what they found."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mesalens import Prompt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
(
    clusters,
    commands,
    limits,
    original,
    page,
    released_code,
    results,
    targets,
    training,
    transformers,
    ways,
) = map(
    importlib.import_module,
    [
        "clusters",
        "commands",
        "limits",
        "original",
        "page",
        "released_code",
        "results",
        "targets",
        "training",
        "transformers",
        "ways",
    ],
)
sys.path.pop(0)

TINY = ways.Cell(layers=2, context_length=3, dim=2, batch_size=4)


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # PyTorch is imported when it is needed


def way(seconds, **more):
    numbers = {"seconds": list(seconds), "steps": 5, "compile_seconds": 2.0, "memory": 3_000_000}
    return numbers | more


def row(cell, **ways_of_row):
    cost = {"flops": 1e6, "bytes_accessed": 2e6, "bytes_needed": 3e6}
    return {"name": str(cell), **cell._asdict(), "ways": ways_of_row, "cost": cost}


def part(*rows):
    conditions = {"date": "2026-01-02", "seconds": 3.0, "machine": "a computer"}
    return {"rows": rows, "limits": {"flops": 1e11, "bytes": 3e10}, "conditions": conditions}


def found(**parts):
    return results.Results({name.replace("_", " "): rows for name, rows in parts.items()})


@pytest.mark.parametrize("changed", [{"layers": 1}, {"clip": 10.0}], ids=str)
def test_all_ways_compute_the_same(changed):
    ways.check_same_work(TINY._replace(**changed))


@pytest.mark.slow
@pytest.mark.parametrize("name", transformers.CASES)
def test_all_transformers_compute_the_same(name):
    transformers.Case(name, batch_size=8).check()  # microbatches of one prompt


def test_a_changed_weight_is_noticed():
    transformer = ways.as_transformer(ways.weights_to_compare(TINY))
    changed = eqx.tree_at(
        lambda t: t.weights.W_K, transformer, transformer.weights.W_K.at[0, 0, 0, 0].multiply(1.1)
    )
    with pytest.raises(AssertionError, match="Mismatched"):
        ways.check_same_work(TINY, changed)


def test_exponents_of_a_power_law():
    sizes = np.array([10, 50, 200, 1000])
    seconds = np.array([[2.0], [3.0]]) * sizes ** np.array([[1.5], [0.25]])
    np.testing.assert_allclose(results.exponents(sizes, seconds), [1.5, 0.25])


def test_operations_and_bytes_of_a_product():
    m, k, n = 3, 5, 7
    lowered = jax.jit(jnp.matmul).lower(jnp.ones((m, k)), jnp.ones((k, n)))
    assert limits.operations(lowered) == 2 * m * n * k
    assert limits.bytes_accessed(lowered.compile()) == 4 * (m * k + k * n + m * n)


def test_limits_are_positive():
    assert limits.arithmetic(64) > 0
    assert limits.bandwidth(1000) > 0


def test_bytes_that_a_step_needs():
    cell = TINY._replace(layers=1)
    weights = 4 * (4 * 3 * 3)  # four factors, D = 3
    prompts = 4 * cell.batch_size * (3 * 2 + 3 + 2 + 1)  # xs, ys, query and target
    count_of_steps = 4
    assert ways.cost_of(cell).bytes_needed == 2 * (3 * weights + count_of_steps) + 3 * prompts


@pytest.mark.slow
def test_many_layers_cost_what_is_counted_from_fewer(monkeypatch):
    cell = TINY._replace(layers=4, dim=1, batch_size=64)
    counted = np.array(ways.cost_of(cell))
    monkeypatch.setattr(ways, "WRITTEN_OUT", 3)
    np.testing.assert_allclose(np.array(ways.cost_of(cell)), counted, rtol=0.05)


@pytest.mark.slow
def test_a_training_waits_for_its_turn():
    way = ways.Mesalens(TINY, steps=2, blocks=2)
    first, second = way.block(), way.block()
    assert first > 0 and second > 0
    assert way.compile_seconds() > 0
    assert way.memory > 0


def test_an_error_of_a_training_is_raised():
    with pytest.raises(ValueError, match="batch_size"):
        ways.Mesalens(TINY._replace(batch_size=0), steps=2, blocks=1)


def test_the_textbook_says_why_it_is_not_run(monkeypatch):
    monkeypatch.setattr(ways, "MOST_BYTES", 0)
    with pytest.raises(ways.NotRunError, match=r"would need 0.0 GB"):
        ways.Textbook(TINY)


def test_ways_take_turns():
    order = []

    class Way:
        def __init__(self, name):
            self.name = name

        def block(self):
            order.append(self.name)
            return float(len(order))

    seconds = ways.in_turns({"a": Way("a"), "b": Way("b")}, 2)
    assert order == ["a", "b"] * 3
    assert seconds["a"].tolist() == [3, 5] and seconds["b"].tolist() == [
        4,
        6,
    ]  # the first round does not count


SPEED = {target.case: target for target in targets.TARGETS}
CELL = ways.Cell(layers=5)


def test_a_target_is_a_ratio_of_rounds():
    cell = row(CELL, mesalens=way([0.001, 0.002, 0.004]), textbook=way([0.01, 0.014, 0.02]))
    cut = row(CELL._replace(clip=10.0), mesalens=way([0.0011, 0.0024, 0.004]))
    measured = found(depth=part(cell, cut))
    target = SPEED["L = 5, n = 10, batch 2,048"]
    np.testing.assert_allclose(target.values(measured), [10, 7, 5])
    assert target.met(measured) is True
    target = SPEED["L = 5, n = 10, batch 2,048, cut at ±10"]
    np.testing.assert_allclose(target.values(measured), [1.1, 1.2, 1.0])
    assert target.met(measured) is True


def test_the_table_of_targets():
    slow = row(CELL, mesalens=way([0.001]), textbook=way([0.0069]))
    lines = page.Page(found(depth=part(slow))).targets().splitlines()
    (missed,) = (line for line in lines if line.startswith("| L = 5, n = 10, batch 2,048 |"))
    assert "| 6.90 |" in missed and "≥ 7 | **MISSED** |" in missed
    assert sum("| not measured |" in line for line in lines) == len(targets.TARGETS) - 1


def test_every_target_reads_rows_that_the_benchmark_has():
    measured = {name: [str(cell) for cell in cells] for name, cells in training.GROUPS.items()}
    measured["seeds"] = [str(cell) for cell in training.SEEDS]
    measured["contexts"] = [str(cell) for cell in training.CONTEXTS]
    measured["transformers"] = list(transformers.CASES)
    cells = {
        str(c): c for g in (*training.GROUPS.values(), training.SEEDS, training.CONTEXTS) for c in g
    }
    names = {"cold start": ["L = 1", "L = 5"], "optimum": ["optimum --dim 20"]}
    names |= {"nonlinear parts": ["sine and teachers"]} | measured
    every = {n: way([1.0]) for n in ("mesalens", "textbook", "empty", "filled")}
    results_of_all = results.Results(
        {
            name: part(*(row(cells.get(r, CELL), **every) | {"name": r} for r in rows))
            for name, rows in names.items()
        }
    )
    assert [t.case for t in targets.TARGETS if t.values(results_of_all) is None] == []


def test_a_page_without_measurements():
    text = page.Page(found()).text()
    assert text.count("not measured") >= len(targets.TARGETS)
    assert text.count("Not measured.") >= 5 and "{{" not in text


def test_a_page_of_some_measurements():
    reason = {"not_run": "not available: no compiler"}
    ours = {"mesalens": way([0.001, 0.002]), "textbook": way([0.01, 0.02])}
    more = {"PyTorch": way([0.03, 0.04]), "PyTorch compiled": reason, "drawing": way([5e-4] * 2)}
    rows = row(CELL, **ours, **more), row(ways.Cell(layers=1), **ours)
    output = {"studies": [{"parts": [{"claims": [{"claim": "a", "outcome": "PASS"}]}]}]}
    outcomes = commands.outcomes(json.dumps(output))
    command = {"name": "training", "ways": {"empty": way([2.0]), "filled": reason}}
    command |= {"outcomes": outcomes}
    text = page.Page(found(depth=part(*rows), verdict=part(command))).text()
    assert "| 1.50 [1.00..2.00] | 15.0 [10.0..20.0] | 35.0 [30.0..40.0] | not available" in text
    assert "| 10.0 [10.0..10.0] | 25.0 [20.0..30.0] | – | 1,365,333 |" in text
    assert "| 1.00 | 0.0067 | 2.00 | 0.044 | 3.00 | 0.067 | 0.38 |" in text
    assert "100 to 100 GFLOP/s" in text and "a computer" in text
    assert "| training | filled | not available: no compiler | – | 1 PASS |" in text


def test_the_page_is_that_of_the_numbers():
    numbers = ROOT / "docs" / "data" / "benchmarks.json"
    if not numbers.is_file():
        pytest.skip("nothing was measured")
    written = (ROOT / "docs" / "pages" / "benchmarks.md").read_text(encoding="utf-8")
    assert written == page.Page(results.Results(json.loads(numbers.read_text()))).text()


def test_an_exponent_has_an_interval_over_rounds():
    rows = [
        row(cell, mesalens=way([1e-3 * n, 2e-3 * n**1.1, n**1.2]), textbook=theirs)
        for cell in training.GROUPS["length, one layer"]
        for n in [cell.context_length]
        for theirs in [way([n**2, n**2, n**2]) if n < 1000 else {"not_run": "too dear"}]
    ]
    axis = results.AXES[3]
    measured = results.Results({"length, one layer": part(*rows)})
    ours, theirs = (axis.exponent(measured, name) for name in ("mesalens", "textbook"))
    half = 4.302653 * 0.1 / 3**0.5  # Student's t with two degrees of freedom
    np.testing.assert_allclose(ours[:3], [1.1, 1.1 - half, 1.1 + half])
    np.testing.assert_allclose(theirs[:3], [2, 2, 2])
    assert ours.sizes == [10, 50, 200, 1000] and theirs.sizes == [10, 50, 200]
    assert "2.00 [2.00, 2.00] up to 200" in page.Page(measured).growth()


def test_numbers_have_three_digits():
    words = [page.number(value) for value in (0, 0.0123456, 1.0, 12.34, 999.9, 1234567.0)]
    assert words == ["0", "0.0123", "1.00", "12.3", "1,000", "1,234,567"]


@pytest.mark.parametrize(("unit", "cost", "latency"), [(1.0, 0.01, 0.1), (2.0, 0.5, 0.0)])
def test_a_simulated_cluster_of_one_worker_waits_for_its_client(unit, cost, latency):
    share = clusters.simulated(1, unit, cost, latency, turns=1000)
    assert share == pytest.approx(unit / (unit + cost + latency), rel=2e-3)


def test_a_simulated_client_that_is_busy_all_the_time_sets_the_pace():
    """400 units a second are 400 s of work a second, of units of a second."""
    share = clusters.simulated(1000, 1.0, 1 / 400, 0.0, turns=200)
    assert share == pytest.approx(0.4, rel=1e-2)


def test_workers_of_a_simulated_client_that_is_free_wait_for_their_turn():
    """All end together, and the client sends one unit after the other."""
    share = clusters.simulated(100, 10.0, 1 / 400, 0.0, turns=200)
    assert share == pytest.approx(10 / (10 + 100 / 400 / 2), rel=2e-3)


def test_units_are_timed_where_they_are_done():
    found = clusters.timed(clusters.Cores(2), 6, 0.05)
    assert found["seconds"] >= 0.15 and found["MB most"] >= found["MB early"] > 0


@pytest.mark.parametrize(
    ("words", "said"), [([], "--original"), (["--original", "nowhere"], "nowhere is not")]
)
def test_the_original_has_to_be_there(monkeypatch, capsys, words, said):
    monkeypatch.setattr(sys, "argv", ["original.py", *words])
    with pytest.raises(SystemExit) as raised:
        original.main()
    assert raised.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def comparison(*differences, broken=None):
    return original.Row("one layer", 10, 20, "float32", differences, 1e-5, broken)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (comparison(1e-6, 1e-5, broken=1e-4), "agrees"),
        (comparison(1e-6), "agrees"),
        (comparison(1e-6, 2e-5, broken=1e-4), "differs"),
        (comparison(float("nan")), "differs"),
        (comparison(1e-6, broken=1e-5), "blind"),
        (comparison(1e-6, broken=float("nan")), "blind"),
    ],
)
def test_verdicts_of_comparisons(row, verdict):
    assert row.verdict() == verdict


def test_the_page_about_the_original_names_what_differs():
    speed = original.Speed("one layer", 10, 20, 2048, "30.0", "3.00", "10.0")
    rows = [comparison(1e-6, broken=1e-4)], [comparison(*[1e-6] * 6)]
    page = original.page("abc", *rows, [speed], 5)
    assert "All 2 comparisons agree." in page
    assert "| one layer | 10 | 20 | float32 | 1.0e-06 | 1.0e-05 | 1.0e-04 | agrees |" in page
    assert "| one layer | 10 | 20 | 2,048 | 30.0 | 3.00 | 10.0 |" in page
    rows[1].append(comparison(*[1e-6] * 5, 1e-3))
    page = original.page("abc", *rows, [], 0)
    assert "**1 of 3 comparisons fail**: one layer, float32: differs." in page
    assert "Not measured" in page


@pytest.mark.parametrize("deq", [True, False])
def test_weights_of_haiku_in_our_models(deq):
    """With two layers and heads, against attention in Haiku's order: rows times matrices."""
    rng, heads, width, layers = np.random.default_rng(0), 2, 3, 2
    names = ["multi_head_attention"] if deq else [f"~trans_block/layer_{k}" for k in range(layers)]
    shapes = {kind: (width, heads * width) for kind in ("query", "key", "value")}
    shapes["linear"] = (heads * width, width)
    parameters = {
        f"transformer/{name}/{kind}": {"w": jnp.asarray(rng.normal(size=shape), jnp.float32)}
        for name in names
        for kind, shape in shapes.items()
    }
    off = ("use_softmax", "first_layer_sm", "layer_norm", "input_mlp", "pos_enc", "clip")
    code = object.__new__(released_code.ReleasedCode)
    code.config = SimpleNamespace(
        **dict.fromkeys(off, 0), deq=deq, num_layers=layers, num_heads=heads, att_only_trans=True
    )
    learner = code.learner(parameters)

    context, query = rng.normal(size=(4, width)), np.append(rng.normal(size=width - 1), 0)
    rows = np.vstack([context, query])
    for name in names * (layers if deq else 1):
        w = {kind: np.asarray(parameters[f"transformer/{name}/{kind}"]["w"]) for kind in shapes}
        split = {k: np.split(rows @ w[k], heads, axis=1) for k in ("query", "key", "value")}
        mixed = [
            q @ k[:-1].T @ v[:-1]
            for q, k, v in zip(split["query"], split["key"], split["value"], strict=True)
        ]
        rows = rows + np.hstack(mixed) @ w["linear"]
    prompt = Prompt(
        *(jnp.asarray(a, jnp.float32) for a in (context[:, :-1], context[:, -1:])),
        query[:-1].astype(np.float32),
    )
    np.testing.assert_allclose(learner(prompt), -rows[-1, -1:], rtol=1e-4)
    larger = original.changed(learner)
    differences = jax.tree.map(lambda a, b: int(np.sum(np.asarray(a != b))), larger, learner)
    assert sum(jax.tree.leaves(differences)) == 1
    assert not np.allclose(larger(prompt), learner(prompt), rtol=1e-4)


def test_interleaved_rows_with_the_label_last():
    prompt = Prompt(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0], [6.0]]), np.ones(2))
    tokens = released_code.LastEntry()
    rows = tokens(prompt)
    np.testing.assert_array_equal(rows, [[1, 2], [0, 5], [3, 4], [0, 6], [1, 1]])
    assert tokens.rows(2) == len(rows)
    jax.tree.map(np.testing.assert_array_equal, tokens.prompt(rows), prompt)
