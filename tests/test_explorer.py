"""The explorer: what its page computes is what mesalens computes, for every person's browser."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from mesalens import learners, tasks, theory, training
from mesalens.atlas.record import read_record
from mesalens.atlas.verdicts import claims_of
from mesalens.checks import InputError
from mesalens.cli import main
from mesalens.explorer import pages, serve, write
from mesalens.models import Factors, LinearTransformer, LowRank, Merged, Sparse

CHROMIUM = next(
    filter(None, map(shutil.which, ("/usr/bin/chromium", "chromium", "google-chrome"))), None
)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if CHROMIUM is None:
    pytest.skip("there is no Chromium to drive", allow_module_level=True)

EXACT = 1e-6


@pytest.fixture(scope="module")
def address():
    with serve() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


class View:
    """A page in a browser; no request may leave its origin, and nothing may go wrong in it."""

    def __init__(self, browser, address, **options):
        self.context, self.address = browser.new_context(**options), address
        self.page, self.problems = self.context.new_page(), []
        note = self.problems.append
        self.page.on("request", lambda r: r.url.startswith((address, "data:")) or note(r.url))
        self.page.on("console", lambda m: note(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: note(str(error)))

    def open(self, **state):
        """The page in a state; it is loaded once only, as that takes a second."""
        words = "#" + "&".join(f"{name}={value}" for name, value in state.items())
        if self.page.url == "about:blank":
            self.page.goto(self.address + words)
        self.page.evaluate(
            "words => { history.replaceState(null, '', words); state = readAddress(words); show(); }",
            words,
        )
        return self.page

    def close(self):
        self.context.close()
        assert not self.problems


@pytest.fixture(scope="module")
def one_view(browser, address):
    view = View(browser, address)
    yield view
    view.close()


@pytest.fixture
def view(one_view):
    yield one_view
    assert not one_view.problems


def rows(page, table):
    """The numbers of a table: by row, what its attributes say."""
    page.wait_for_selector(f"#{table} tbody tr")
    found = page.eval_on_selector_all(f"#{table} tbody tr", "all => all.map(r => ({...r.dataset}))")
    numbers = ("value", "error", "rate")
    return {r.pop("row"): {k: float(v) for k, v in r.items() if k in numbers} for r in found}


def task_of(state, page):
    """The task of the page's state."""
    made = page.evaluate(
        "s => task(readAddress('#' + new URLSearchParams(s)))",
        {k: str(v) for k, v in state.items()},
    )
    covariates = tasks.Gaussian(made["d"], covariance=np.diag(made["sigma"]))
    functions = tasks.LinearFunctions(made["d"], covariance=np.diag(made["lambda"]))
    noise = tasks.GaussianNoise(float(made["noise"]))
    task = tasks.RegressionTask(covariates, functions, context_length=made["n"], noise=noise)
    return task, made["sigma"], made["lambda"]


# Optimum

SETTINGS = [
    {"d": 1, "n": 1, "s2": 0.5, "S": "flat", "k": 2},
    {"d": 2, "n": 3, "s2": 0.25, "S": "list", "Sp": 2, "L": "list", "Lp": 0.5, "k": 3},
    {"d": 3, "n": 2, "s2": 0, "S": "flat", "k": 3},
    {"d": 5, "n": 4, "s2": 0.3, "S": "power", "Sp": 1.5, "L": "two", "Lp": 3, "k": 2},
    {"d": 4, "n": 9, "s2": 0, "S": "list", "Sp": "3,1,.5,.2", "L": "list", "Lp": "1,2", "k": 4},
    {"d": 7, "n": 7, "s2": 1, "S": "flat", "k": 1},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"d={s['d']}-n={s['n']}-{s['S']}")
def test_risks_and_steps_are_those_of_theory(view, setting):
    page = view.open(tab="optimum", form="rank", r=2, **setting)
    page.wait_for_selector("#panel-optimum[data-done=true]")
    found = rows(page, "risks")
    task, sigma, _ = task_of(setting, page)
    moments, one = theory.task_moments(task), theory.one_step_risk(task)
    rank = min(2, task.dim)
    expected = {
        "null": moments.null_risk,
        "step": one.best_risk,
        "rank": theory.best_rank_step(moments, rank)[1],
        "best": theory.optimal_layer(task, moments).risk,
        "bound": theory.lower_bound(moments),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, rel=EXACT), name
    words = page.eval_on_selector("#words-step", "words => ({...words.dataset})")
    size = task.context_length * float(words["size"])
    assert size == pytest.approx(one.best_step_size, rel=EXACT)
    P = np.diag(theory.best_rank_step(moments, rank)[0])
    np.testing.assert_allclose(json.loads(words["step"]), P, rtol=EXACT, atol=1e-12)
    page.select_option("#optimum-form", "full")
    P = json.loads(page.eval_on_selector("#words-step", "words => words.dataset.step"))
    np.testing.assert_allclose(P, np.diag(theory.gaussian_preconditioner(task)), rtol=EXACT)
    np.testing.assert_allclose(P, np.diag(theory.best_preconditioner(moments)[0]), rtol=EXACT)

    isotropic, bayes = len(set(sigma)) == 1, found["bayes"]
    reference = theory.bayes_risk(task, relative_error=0.003)
    error = np.hypot(bayes.get("error", 0), reference.standard_error)
    assert abs(bayes["value"] - reference.value) <= 4.5 * error + 1e-9
    assert isotropic == ("error" not in bayes)
    if setting["k"] > 1 and isotropic:
        descent, (s, n) = found["descent"], (sigma[0], task.context_length)
        rate, steps = descent["rate"], setting["k"]
        risk = descent_risk(task, s, rate, steps)
        assert descent["value"] == pytest.approx(risk, rel=EXACT)
        assert all(descent_risk(task, s, c * rate, steps) >= risk for c in (0.999, 1.001)), n
    elif setting["k"] > 1:
        descent, steps = found["descent"], setting["k"]
        learner = learners.GradientDescent(descent["rate"], steps)
        reference = spectral_risk(task, learner)
        error = np.hypot(descent["error"], reference[1])
        assert abs(descent["value"] - reference[0]) <= 4.5 * error


def wishart_moments(n, d, most):
    """E tr W^p for W = X^T X, X of n × d standard normals: sums over pairings, in whole numbers."""
    result = []
    for p in range(1, most + 1):
        total = 0
        # X_{i1 j1} X_{i1 j2} X_{i2 j2} …: place 2a is (i_a, j_a), place 2a + 1 is (i_a, j_{a+1})
        for pairs in pairings(list(range(2 * p))):
            lines, columns = Loops(p), Loops(p)
            for a, b in pairs:
                lines.join(a // 2, b // 2)
                columns.join((a + 1) // 2 % p, (b + 1) // 2 % p)
            total += n ** lines.count() * d ** columns.count()
        result.append(total)
    return result


def pairings(places):
    if not places:
        yield []
        return
    first, *rest = places
    for index, other in enumerate(rest):
        for more in pairings(rest[:index] + rest[index + 1 :]):
            yield [(first, other), *more]


class Loops:
    """Sets of numbers that are joined."""

    def __init__(self, size):
        self.names = list(range(size))

    def join(self, a, b):
        a, b = self.names[a], self.names[b]
        self.names = [a if name == b else name for name in self.names]

    def count(self):
        return len(set(self.names))


def descent_risk(task, s, rate, steps):
    """Of k steps on an isotropic task, by the moments of Wishart matrices."""
    d, n, noise = task.dim, task.context_length, float(task.noise.variance)
    prior = task.functions.row_covariance()[0, 0]
    powers = [d, *wishart_moments(n, d, 2 * steps)]

    def mean(polynomial):
        """E tr p(C) for C = XᵀX/n."""
        terms = zip(np.atleast_1d(polynomial.coef), powers, strict=False)
        return sum(c * (s / n) ** i * p for i, (c, p) in enumerate(terms))

    left = np.polynomial.Polynomial([1, -rate]) ** steps
    learned = (1 - left) // np.polynomial.Polynomial([0, 1])
    curvature = np.polynomial.Polynomial([0, 1])
    return noise + s * prior * mean(left**2) + noise / n * s * mean(learned**2 * curvature)


def spectral_risk(task, learner, contexts=20_000):
    """The mean risk over contexts, each integrated over everything else, and its error."""
    rng, n, noise = np.random.default_rng(0), task.context_length, float(task.noise.variance)
    sigma, prior = task.covariates.second_moment(), task.functions.row_covariance()
    xs = rng.normal(size=(contexts, n, task.dim)) @ np.sqrt(sigma)
    values, axes = np.linalg.eigh(xs.mT @ xs / n)
    g = learner.spectral_filter(values, n)
    S, L = axes.mT @ sigma @ axes, axes.mT @ prior @ axes
    left = 1 - g * values
    risks = np.einsum("cab,cab,ca,cb->c", S, L, left, left) + noise
    risks += noise / n * np.einsum("caa,ca->c", S, g**2 * values)
    return risks.mean(), risks.std() / np.sqrt(contexts)


def test_the_mean_spectrum_of_wishart_matrices_is_exact(view):
    page = view.open()
    for n, d in [(1, 1), (1, 4), (3, 3), (4, 2), (5, 12), (40, 5), (100, 12)]:
        spectrum = page.evaluate(f"meanSpectrum({n}, {d})")
        values, weights = map(np.array, (spectrum["eigenvalues"], spectrum["weights"]))
        assert weights.sum() + spectrum["zeros"] == pytest.approx(d, rel=1e-12)
        for power, moment in enumerate(wishart_moments(n, d, 4), 1):
            assert np.sum(weights * values**power) == pytest.approx(moment, rel=1e-11)


def test_the_bayes_risk_of_isotropic_tasks_is_exact(view):
    page = view.open(tab="optimum", d=1, n=3, s2=0.1, S="list", Sp=2, L="list", Lp=0.7)
    density = stats.chi2(3).pdf
    left = integrate.quad(lambda z: 0.1 / (0.1 + 1.4 * z) * density(z), 0, np.inf, epsabs=1e-12)[0]
    assert rows(page, "risks")["bayes"]["value"] == pytest.approx(0.1 + 1.4 * left, rel=EXACT)
    # Two eigenvalues with the density |a - b| (ab)^((n - 3) / 2) exp(-(a + b) / 2), n = 4
    page = view.open(tab="optimum", d=2, n=4, s2=0.25, S="flat")

    def mean(f):
        def inner(a, b):
            return f(a, b) * (a - b) * np.sqrt(a * b) * np.exp(-(a + b) / 2)

        return integrate.dblquad(inner, 0, 120, lambda b: b, 120, epsabs=1e-11, epsrel=1e-10)[0]

    left = mean(lambda a, b: 0.25 / (0.25 + a) + 0.25 / (0.25 + b)) / mean(lambda a, b: 1.0)
    assert rows(page, "risks")["bayes"]["value"] == pytest.approx(0.25 + left, rel=EXACT)


def test_simulated_risks_agree_with_exact_ones(view):
    """Where both are known; the noise is large, so that its share counts."""
    page = view.open()
    for d, n, steps in ((2, 6, 3), (4, 3, 2)):
        found = page.evaluate(
            """([d, n, steps]) => {
              const t = task(readAddress(`#d=${d}&n=${n}&s2=4&S=list&Sp=2&L=list&Lp=0.7`));
              let last;
              for (const each of simulatedRisks(t, steps)) last = each;
              return [last, exactDescentRisk(t, last.rate, steps), exactBayesRisk(t)];
            }""",
            [d, n, steps],
        )
        simulated, descent, bayes = found
        assert simulated["descentError"] < 0.003 * descent
        assert abs(simulated["descent"] - descent) < 4 * simulated["descentError"]
        assert abs(simulated["bayes"] - bayes) < 4 * simulated["bayesError"]


# Training

KINDS = {"lowrank": LowRank, "sparse": Sparse, "factors": Factors, "merged": Merged}

START = """([state, options]) => {
  const layer = new Layer(task(readAddress('#' + new URLSearchParams(state))), options);
  const theta = startingWeights(options), parameters = {};
  for (const [name, { rows, columns, start }] of Object.entries(layer.places))
    parameters[name] = [[options.heads, rows, columns], [...theta.slice(start, start + options.heads * rows * columns)]];
  const slope = new Float64Array(theta.length), risk = layer.slope(theta, slope);
  const differences = Array.from(theta, (_, i) => {
    const at = (step) => { const moved = theta.slice(); moved[i] += step; return layer.risk(moved); };
    return (8 * (at(1e-3) - at(-1e-3)) - at(2e-3) + at(-2e-3)) / 12e-3;
  });
  return { parameters, risk, slope: [...slope], differences };
}"""


def start(page, state, **options):
    found = page.evaluate(START, [{k: str(v) for k, v in state.items()}, options])
    arrays = {
        name: jnp.asarray(np.reshape(values, [1, *shape]), jnp.float32)
        for name, (shape, values) in found["parameters"].items()
    }
    return found, LinearTransformer(KINDS[options["structure"]](**arrays), layers=1)


@pytest.mark.parametrize("structure", KINDS)
def test_the_risk_and_its_slope_are_those_of_the_layer(view, structure):
    """At large random weights, where all terms matter."""
    page = view.open()
    for d, n, heads, noise in ((1, 1, 1, 0), (3, 2, 2, 0.4)):
        state = {"d": d, "n": n, "s2": noise, "S": "two", "Sp": 3, "L": "inverse"}
        options = {"structure": structure, "heads": heads, "rank": min(2, d), "d": d}
        found, layer = start(page, state, scale=0.5, seed=3, **options)
        risk = theory.layer_risk(layer, theory.task_moments(task_of(state, page)[0]))
        assert found["risk"] == pytest.approx(risk, rel=1e-9)
        largest = np.abs(found["slope"]).max()
        np.testing.assert_allclose(found["slope"], found["differences"], atol=1e-7 * largest)


def test_the_flow_is_that_of_training(view):
    """At each time to 1e-6; both integrate with adaptive steps of order 5."""
    page = view.open()
    state = {"d": 3, "n": 6, "s2": 0.25, "S": "list", "Sp": "2,1,.5"}
    options = {"structure": "lowrank", "heads": 3, "rank": 1, "d": 3, "scale": 0.01, "seed": 1}
    _, layer = start(page, state, **options)
    times = [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6]
    flow = page.evaluate(
        """([state, options, times]) => {
          const layer = new Layer(task(readAddress('#' + new URLSearchParams(state))), options);
          const flow = new Flow(layer, startingWeights(options));
          return times.map((time) => { flow.advance(time); return flow.risk; });
        }""",
        [{k: str(v) for k, v in state.items()}, options, times],
    )
    task = task_of(state, page)[0]
    expected = training.gradient_flow(
        lambda _: layer, task, times, key=jax.random.key(0), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(flow, expected.metrics.risk.values[0], rtol=EXACT)
    assert flow[0] > 1.5 * flow[-1]  # something was learned


def test_a_flow_that_is_started_passes_its_plateaus_and_arrives_at_the_best_step(view):
    state = {"d": 2, "n": 5, "s2": 0.5, "S": "list", "Sp": "1,.5", "H": 3, "e": -2}
    page = view.open(tab="training", **state)
    task = task_of(state, page)[0]
    levels = theory.plateau_risks(theory.task_moments(task))
    panel = page.locator("#panel-training")
    np.testing.assert_allclose(json.loads(panel.get_attribute("data-levels")), levels, rtol=EXACT)
    before = float(panel.get_attribute("data-risk"))
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector("#panel-training[data-arrived=true]", timeout=20_000)
    risk = float(panel.get_attribute("data-risk"))
    assert before > levels[1] and risk == pytest.approx(levels[-1], rel=EXACT)
    assert "arrived" in page.inner_text("#clock") and "rank 2" in page.inner_text("#words-loss")
    page.get_by_role("button", name="Reset").click()
    assert float(panel.get_attribute("data-risk")) == before


# Filter


@pytest.mark.parametrize("shown", ["g", "learned", "left"])
def test_filters_are_those_of_the_learners(view, shown):
    state = {"gk": 3, "ge": 0.35, "pk": 4, "pe": 0.3, "pg": 0.07, "nk": 3, "na": 0.8, "x": 3.5}
    state |= {"ck": 6, "cl": 0.3, "cu": 3.6, "rp": 0.4}
    page = view.open(tab="filter", v=shown, on="gd,gdpp,newton,chebyshev,ridge,ls", **state)
    at = np.array([0.05, 0.25, 0.5, 0.75, 1]) * 3.5
    expected = {
        "gd": learners.GradientDescent(0.35, 3),
        "gdpp": learners.GradientDescent(0.3, 4, data_correction=0.07),
        "newton": learners.NewtonSchulz(3, 0.8),
        "chebyshev": learners.ChebyshevDescent(6, 0.3, 3.6),
        "ridge": learners.Ridge(0.4 * 10),
        "ls": learners.LeastSquares(),
    }
    for name, learner in expected.items():
        cells = page.locator(f"#filters tr[data-row={name}] td")
        values = [float(cells.nth(i).get_attribute("data-value")) for i in range(5)]
        g = learner.spectral_filter(at, 10)
        wanted = {"g": g, "learned": at * g, "left": 1 - at * g}[shown]
        np.testing.assert_allclose(values, wanted, rtol=EXACT, atol=1e-7, err_msg=name)


REPORT = {
    "verdict": "named",
    "name": "ridge",
    "filter": {
        "eigenvalues": [0.5, 1.0, 2.0],
        "g": [[1.3, 0.8, 0.4]],
        "pointwise": [[0.1, 0.1, 0.1]],
        "simultaneous": [[0.2, 0.2, 0.2]],
        "across": [0.01],
        "candidates": {"ridge": [1.33, 0.8, 0.44], "<b>bold</b>": [1, 1, 1]},
    },
}


def test_the_filter_of_a_report_is_drawn_and_what_is_not_one_is_refused(view, tmp_path):
    page = view.open(tab="filter")
    page.evaluate("filterTab.forget()")
    words, traces = page.locator("#report-words"), "byId('plot-filter').data.map(t => t.name)"

    def give(text, name="identification.json"):
        file = tmp_path / name
        file.write_text(text)
        page.set_input_files("#report", file)
        page.wait_for_function("name => byId('report-words').textContent.includes(name)", arg=name)
        return words.inner_text()

    assert "ridge" in give(json.dumps(REPORT)) and "95%" in words.inner_text()
    names = page.evaluate(traces)
    assert "report" in names and "report: ridge" in names and "<b>" not in str(names)
    drawn = page.evaluate("byId('plot-filter').data.find(t => t.name === 'report').y")
    assert drawn == REPORT["filter"]["g"][0]
    no_filter = REPORT | {"filter": {"reason": "<img src=x onerror=alert(1)>"}}
    assert "<img src=x" in give(json.dumps(no_filter), "no-filter.json")
    short = REPORT | {"filter": REPORT["filter"] | {"g": [[1, 2]]}}
    text = REPORT | {"filter": REPORT["filter"] | {"g": [["1", "2", "3"]]}}
    layers = REPORT | {"filter": REPORT["filter"] | {"g": [[1, 2, 3], [1, 2, 3]]}}
    broken = {
        "layers.json": layers,
        "short.json": short,
        "text.json": text,
        "list.json": [],
        "null.json": None,
    }
    broken |= {"other.json": {"verdict": "named"}, "empty.json": REPORT | {"filter": None}}
    for name, content in broken.items():
        assert re.search("not a report|damaged", give(json.dumps(content), name)), name
    assert "not JSON" in give("{", "half.json")
    assert "report" not in page.evaluate(traces)
    # Dropped on the page
    page.evaluate(
        """(text) => {
          const data = new DataTransfer();
          data.items.add(new File([text], 'dropped.json'));
          byId('panel-filter').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        json.dumps(REPORT),
    )
    page.wait_for_function("() => byId('report-words').textContent.includes('dropped.json')")
    assert "report" in page.evaluate(traces)
    page.get_by_role("button", name="Remove report").click()
    assert "report" not in page.evaluate(traces)


# Verdicts


def test_all_verdicts_of_record_are_shown_and_can_be_filtered(view):
    page = view.open(tab="verdicts")
    recorded = [(s["study"], c) for each in read_record() for s, _, c in claims_of(each)]
    lines = page.locator("#verdicts tbody tr")
    assert lines.count() == len(recorded)
    name, claim = next((s, c) for s, c in recorded if c["interval"][0] is not None)
    line = page.locator(f"tr[data-study='{name}'][data-claim='{claim['claim']}']")
    assert claim["outcome"] in line.inner_text() and claim["statement"] in line.inner_text()
    assert claim["criterion"] in line.locator("svg").get_attribute("aria-label")
    page.select_option("#verdicts-study", name)
    assert lines.count() == sum(study == name for study, _ in recorded)
    page.select_option("#verdicts-study", "all")
    page.select_option("#verdicts-outcome", "INCONCLUSIVE")
    inconclusive = sum(c["outcome"] == "INCONCLUSIVE" for _, c in recorded)
    assert lines.count() == inconclusive
    assert f"{inconclusive} of {len(recorded)}" in page.inner_text("#words-verdicts")
    page.fill("#verdicts-q", "no such words anywhere")
    assert lines.count() == 0


# The page


def test_an_address_restores_the_state_and_bad_values_are_defaults(view):
    state = {"d": 3, "n": 7, "s2": 0.25, "S": "list", "Sp": "2,1", "form": "rank", "r": 1, "k": 4}
    page = view.open(tab="optimum", **state)
    page.get_by_label("dimension d").first.press("ArrowRight")
    page.wait_for_function("() => location.hash.includes('d=4')")
    before, link = rows(page, "risks"), page.url
    page.goto("about:blank")
    page.goto(link)
    assert rows(page, "risks").keys() == before.keys()
    assert rows(page, "risks")["best"] == before["best"]
    state = page.evaluate("state")
    assert (state["d"], state["Sp"], state["form"], state["k"]) == (4, "2,1", "rank", 4)
    page = view.open(tab="nowhere", d="many", n=-3, s2="1e99", S="constructor", on="<b>")
    state = page.evaluate("state")
    assert (state["tab"], state["d"], state["n"], state["s2"]) == ("optimum", 5, 1, 4)
    assert state["S"] == "power"
    page.select_option("#optimum-S", "list")
    page.fill("#optimum-Sp", "1, two")
    assert "two" in page.inner_text("#notice")
    page.fill("#optimum-Sp", "1, 2")
    assert page.locator("#notice").text_content() == ""


def test_everything_is_done_by_keyboard(view):
    page = view.open()
    page.locator("#tab-optimum").focus()
    for name in ("training", "filter", "verdicts", "optimum"):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"
        assert page.locator(f"#tab-{name}").get_attribute("aria-selected") == "true"
        assert page.locator("[role=tabpanel]:visible").get_attribute("id") == f"panel-{name}"
    page.keyboard.press("End")
    assert page.locator("#panel-verdicts").is_visible()
    page.keyboard.press("Home")
    seen = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id"))
    assert {"panel-optimum", "optimum-d", "optimum-S", "optimum-k"} <= seen
    unlabelled = page.evaluate(
        "[...document.querySelectorAll('input, select')].filter(i => !i.labels.length).map(i => i.id)"
    )
    assert unlabelled == []


def test_the_link_is_copied(browser, address):
    view = View(browser, address, permissions=["clipboard-read", "clipboard-write"])
    page = view.open(tab="filter", gk=7)
    page.get_by_role("button", name="Copy link").click()
    page.wait_for_function("() => byId('notice').textContent")
    assert page.evaluate("navigator.clipboard.readText()") == f"{address}#tab=filter&gk=7"
    view.close()


def test_narrow_screens_have_no_overflow_and_the_theme_can_be_chosen(browser, address):
    view = View(browser, address, viewport={"width": 400, "height": 800}, color_scheme="dark")
    page = view.open()
    for tab in ("optimum", "training", "filter", "verdicts"):
        page.click(f"#tab-{tab}")
        width = "document.documentElement.scrollWidth"
        assert page.evaluate(width) <= 400, tab
        plots = page.locator(f"#panel-{tab} [id^=plot-]")
        for plot in plots.all():
            assert plot.get_attribute("role") == "img" and plot.get_attribute("aria-label")
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(theme) == "light"
    page.reload()
    assert page.evaluate(theme) == "light"
    page.evaluate("postMessage({theme: 'dark'}, '*')")  # as a page around the frame does
    page.wait_for_function(f"{theme} == 'dark'", timeout=5000)
    page.evaluate("postMessage({theme: 'pink'}, '*')")
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert page.evaluate(theme) == "dark"
    view.close()


def test_contrast_is_enough_in_both_themes():
    style = (pages.PAGE / "style.css").read_text()

    def luminance(color):
        color = color if len(color) == 7 else "#" + "".join(2 * c for c in color[1:])
        parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    blocks = re.findall(r"^:root[^{]*\{(.*?)\}", style, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        colors = dict(re.findall(r"--([\w-]+): (#\w+)", block))
        texts = itertools.product(
            ("ink", "soft", "link", "bound", "PASS", "FAIL", "INCONCLUSIVE"), ("paper", "raised")
        )
        lines = itertools.product(
            ("first", "second", "third", "fourth", "fifth", "neutral"), ("paper", "raised")
        )
        for least, pairs in ((4.5, [*texts, ("on-bar", "first")]), (3, lines)):
            for pair in pairs:
                a, b = sorted(luminance(colors[name]) for name in pair)
                assert (b + 0.05) / (a + 0.05) >= least, pair


def test_the_folder_works_from_a_disk(browser, tmp_path):
    assert main(["explore", "--out", str(tmp_path / "page")]) == 0
    view = View(browser, (tmp_path / "page" / "index.html").as_uri())
    files = {file.name for file in (tmp_path / "page").iterdir()}
    used = set(re.findall(r'(?:src|href)="([\w.]+)"', (tmp_path / "page/index.html").read_text()))
    assert used == files - {"index.html"}
    page = view.page
    page.goto(f"{view.address}#tab=verdicts")
    page.wait_for_selector("#verdicts tbody tr")
    view.problems = [p for p in view.problems if not p.startswith(tmp_path.as_uri())]
    view.close()


def test_the_folder_is_not_written_over_and_needs_plotly(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        write(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="plotly"):
        write(tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_the_command_serves_until_ctrl_c(tmp_path, capsys):
    words = [sys.executable, "-m", "mesalens", "explore", "--no-browser"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
        with urllib.request.urlopen(address) as answer:
            assert answer.status == 200 and b"explorer" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.stdout.close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["explore", "--no-browser", "--port", str(port)]) == 2
    assert str(port) in capsys.readouterr().err
