"""A study of the instrument: what `identify` answers where the answer is known.

    python benchmarks/known_answers.py --draws 208 --out docs/data/known-answers.json

draws tasks, algorithms and their parameters at random, and identifies each; identifies decoys that
are none of the candidates; and counts how often intervals of level 95% contain the distance. The
table of docs/pages/identify/known-answers.md is made from the file with `--table`.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mesalens as ml
from mesalens import learners, tasks
from mesalens.identification import distance
from mesalens.identification.candidates import REGRESSION, Scales
from mesalens.identification.prompts import Source, spectrum

SIZES = ((3, 8), (5, 12), (5, 20))
"""d and n of the tasks."""

TRAINED = (
    "one-layer",
    "two-layers",
    "five-layers",
    "attention-layer",
    "attention-layer heads=2",
    "attention-layer linear",
)
"""Experiments of the study whose models are identified."""

NOISE = (0.01, 0.1, 0.25, 1.0)


def random_task(rng: np.random.Generator) -> tasks.RegressionTask:
    """A linear regression task: sizes, noise and the law of inputs are drawn."""
    d, n = SIZES[rng.integers(len(SIZES))]
    laws: list[Callable[[], tasks.Covariates]] = [
        lambda: tasks.Gaussian(d),
        lambda: tasks.Uniform(d, 1.5),
        lambda: tasks.Laplace(d, 0.7),
        lambda: tasks.Gaussian(d, covariance=np.diag(np.geomspace(2, 0.4, d))),
    ]
    return tasks.RegressionTask(
        laws[rng.integers(len(laws))](),
        tasks.LinearFunctions(d),
        noise=tasks.GaussianNoise(float(rng.choice(NOISE))),
        context_length=n,
    )


def random_algorithm(
    family: str, task: tasks.RegressionTask, rng: np.random.Generator
) -> tuple[ml.Learner, dict[str, Any]]:
    """A member of a family with random parameters, in the range where algorithms are of use."""
    s = Scales.of(Source(task, ml.random.key(0)).draw(1024, (9,)))
    d, n = task.dim, task.context_length
    unit = n * s.largest

    def between(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    steps, few = int(rng.integers(1, 6)), int(rng.integers(2, 5))
    rate = between(0.2, 1.0) / s.largest
    spread = rate * rng.uniform(0.4, 1.6, few)
    draws: dict[str, Callable[[], tuple[ml.Learner, dict[str, Any]]]] = {
        "least-squares": lambda: (learners.LeastSquares(), {}),
        "averaging": lambda: (learners.GradientDescent(1.0), {}),
        "ridge": lambda: _with(learners.Ridge, penalty=between(0.02, 1) * unit),
        "least-squares-with-intercept": lambda: (
            learners.WithIntercept(learners.LeastSquares()),
            {},
        ),
        "ridge-with-intercept": lambda: _with(
            lambda penalty: learners.WithIntercept(learners.Ridge(penalty)),
            penalty=between(0.02, 1) * unit,
        ),
        "gradient-descent": lambda: _with(learners.GradientDescent, step_size=rate, steps=steps),
        "principal-components": lambda: _with(
            learners.PrincipalComponentRegression, components=int(rng.integers(1, d))
        ),
        "newton-schulz": lambda: _with(
            learners.NewtonSchulz, steps=int(rng.integers(1, 5)), scale=float(rng.uniform(0.5, 1.5))
        ),
        "conjugate-gradient": lambda: _with(
            learners.ConjugateGradient, steps=int(rng.integers(1, d))
        ),
        "chebyshev-descent": lambda: _with(
            learners.ChebyshevDescent,
            steps=few,
            lower=between(0.05, 0.2) * s.largest,
            upper=between(0.9, 1.5) * s.largest,
        ),
        "momentum": lambda: _with(
            learners.GradientDescent,
            step_size=rate,
            steps=few,
            momentum=float(rng.uniform(0.3, 0.7)),
        ),
        "gd-plus-plus": lambda: _with(
            learners.GradientDescent,
            step_size=rate,
            steps=few,
            data_correction=between(0.05, 0.3) / s.largest,
        ),
        "centred-descent": lambda: _with(learners.CentredDescent, step_size=rate, steps=steps),
        "lasso": lambda: _with(learners.Lasso, penalty=between(0.03, 0.2) * s.largest),
        "kernel-smoother": lambda: _with(
            learners.KernelSmoother, bandwidth=between(0.2, 0.8) * s.distance
        ),
        "softmax-head": lambda: _with(
            learners.SoftmaxHead, metric=between(0.5, 3) / s.length, gain=between(0.7, 2.0)
        ),
        "nearest-neighbours": lambda: _with(
            learners.KNearestNeighbours, neighbours=int(rng.integers(1, 6))
        ),
        "kernel-ridge": lambda: _with(
            learners.KernelRidge,
            penalty=between(0.05, 1),
            bandwidth=between(0.4, 1.2) * s.distance,
        ),
        "weighted-ridge": lambda: _with(
            learners.WeightedRidge,
            penalty=between(0.01, 0.3) * unit,
            decay=float(rng.uniform(0.6, 0.9)),
        ),
        "online-descent": lambda: _with(
            learners.OnlineDescent, step_size=between(0.1, 0.6) / s.length
        ),
        "gradient-descent-rates": lambda: _with(
            learners.GradientDescent, step_size=spread, steps=few
        ),
        "gd-plus-plus-rates": lambda: _with(
            learners.GradientDescent,
            step_size=spread[:2],
            steps=2,
            data_correction=np.array([between(0.1, 0.4) / s.largest, 0.0]),
        ),
        "descent-from-weights": lambda: _with(
            learners.GradientDescent,
            step_size=rate,
            steps=steps,
            initial_weights=rng.normal(size=(1, d)),
        ),
        "preconditioned-step": lambda: _with(
            learners.GradientDescent, step_size=1.0, preconditioner=_preconditioner(rng, d, rate)
        ),
        "bayes": lambda: (
            learners.BayesianRegression(np.eye(d), float(task.noise.variance)),  # pyright: ignore
            {},
        ),
        "mean-label": lambda: (learners.MeanLabel(), {}),
    }
    return draws[family]()


FAMILIES = [*(family.name for family in REGRESSION), "bayes", "mean-label"]


def _with(kind: Callable[..., ml.Learner], **parameters: Any) -> tuple[ml.Learner, dict[str, Any]]:
    plain = {name: np.asarray(value).tolist() for name, value in parameters.items()}
    return kind(**parameters), plain


def _preconditioner(rng: np.random.Generator, d: int, rate: float) -> np.ndarray:
    root = rng.normal(size=(d, d)) / np.sqrt(d)
    return rate * (root @ root.T + 0.3 * np.eye(d))


def decoys(d: int) -> dict[str, Any]:
    """Learners that are none of the candidates; some in JAX, some of scikit-learn."""
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import ElasticNet, HuberRegressor, Lasso, LinearRegression, Ridge
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler
    from sklearn.svm import SVR
    from sklearn.tree import DecisionTreeRegressor

    ridge, squares = learners.Ridge(1.0), learners.LeastSquares()
    descent = learners.GradientDescent(0.3, 3)

    def part(prompt: Any, rows: Any) -> Any:
        return ml.Prompt(prompt.xs[rows], prompt.ys[rows], prompt.query)

    def by_context(prompt: Any) -> Any:
        gram = prompt.xs.T @ prompt.xs + jnp.mean(prompt.ys**2) * jnp.eye(prompt.dim)
        return prompt.ys.T @ prompt.xs @ jnp.linalg.solve(gram, prompt.query)

    def normalised(prompt: Any) -> Any:
        rate = prompt.context_length / jnp.sum(prompt.xs**2)
        return 1.5 * rate * (prompt.ys.T @ prompt.xs @ prompt.query) / prompt.context_length * d / 2

    def noisy(prompt: Any) -> Any:
        """Noise that the prompt itself seeds: 5% of what the context explains, and always alike."""
        key = jax.random.key(jax.lax.bitcast_convert_type(jnp.sum(prompt.xs), jnp.int32))
        answer = ridge(prompt)
        return answer + 0.22 * jnp.linalg.norm(prompt.query) * jax.random.normal(key, answer.shape)

    def robust(prompt: Any) -> Any:
        weights = jnp.zeros((1, prompt.dim))
        for _ in range(6):
            residuals = prompt.ys - prompt.xs @ weights.T
            weights = weights + 0.3 * (jnp.clip(residuals, -1, 1).T @ prompt.xs) / len(prompt.xs)
        return weights @ prompt.query

    def one_coordinate(prompt: Any) -> Any:
        gains = (prompt.ys[:, 0] @ prompt.xs) / jnp.sum(prompt.xs**2, axis=0)
        best = jnp.argmax(jnp.abs(prompt.ys[:, 0] @ prompt.xs))
        return (gains[best] * prompt.query[best])[None]

    def local(prompt: Any) -> Any:
        near = jnp.exp(-jnp.sum((prompt.xs - prompt.query) ** 2, axis=1) / 8)
        gram = (prompt.xs * near[:, None]).T @ prompt.xs + 0.3 * jnp.eye(prompt.dim)
        return (prompt.ys * near[:, None]).T @ prompt.xs @ jnp.linalg.solve(gram, prompt.query)

    def seventy_thirty(prompt: Any) -> Any:
        return 0.7 * learners.KNearestNeighbours(3)(prompt) + 0.3 * descent(prompt)

    def laplacian(prompt: Any) -> Any:
        def kernel(a: Any, b: Any) -> Any:
            return jnp.exp(-jnp.sum(jnp.abs(a[:, None] - b[None]), -1) / 4)

        gram = kernel(prompt.xs, prompt.xs) + 0.3 * jnp.eye(len(prompt.xs))
        return jnp.linalg.solve(gram, prompt.ys).T @ kernel(prompt.xs, prompt.query[None])[:, 0]

    functions = {
        "half ridge, half nearest neighbours": lambda p: (
            0.5 * ridge(p) + 0.5 * learners.KNearestNeighbours(2)(p)
        ),
        "half least squares, half mean label": lambda p: (
            0.5 * squares(p) + 0.5 * learners.MeanLabel()(p)
        ),
        "0.7 nearest neighbours, 0.3 descent": seventy_thirty,
        "ridge, clipped at 1": lambda p: jnp.clip(ridge(p), -1, 1),
        "tanh of ridge": lambda p: jnp.tanh(ridge(p)),
        "ridge, rounded to integers": lambda p: jnp.round(ridge(p)),
        "ridge with noise seeded by the prompt": noisy,
        "ridge with a penalty that depends on the labels": by_context,
        "one step, normalised by the trace": normalised,
        "descent on a clipped (Huber) loss": robust,
        "ridge on the first half of the examples": lambda p: ridge(
            part(p, slice(0, len(p.xs) // 2))
        ),
        "ridge that skips the last two examples": lambda p: ridge(part(p, slice(0, len(p.xs) - 2))),
        "least squares on one coordinate": one_coordinate,
        "locally weighted ridge": local,
        "kernel ridge, Laplacian kernel": laplacian,
        "ridge on absolute inputs": lambda p: ridge(
            ml.Prompt(jnp.abs(p.xs), p.ys, jnp.abs(p.query))
        ),
        "descent on signs of labels": lambda p: descent(ml.Prompt(p.xs, jnp.sign(p.ys), p.query)),
        "the larger of ridge and mean label": lambda p: jnp.maximum(
            ridge(p), learners.MeanLabel()(p)
        ),
    }
    estimators = {
        "boosted trees": GradientBoostingRegressor(n_estimators=10, max_depth=2, random_state=0),
        "random forest": RandomForestRegressor(n_estimators=5, random_state=0),
        "decision tree": DecisionTreeRegressor(random_state=0),
        "a small MLP fitted on the context": MLPRegressor(
            hidden_layer_sizes=(8,), max_iter=30, random_state=0
        ),
        "support vector regression": SVR(),
        "elastic net": ElasticNet(alpha=0.1, l1_ratio=0.5),
        "the Lasso with an intercept": Lasso(alpha=0.1),
        "ridge on standardised inputs": make_pipeline(StandardScaler(), Ridge(1.0)),
        "ridge on quadratic features": make_pipeline(
            PolynomialFeatures(2, include_bias=False), LinearRegression()
        ),
        "neighbours weighted by distance": KNeighborsRegressor(5, weights="distance"),
        "Huber regression": HuberRegressor(max_iter=30),
    }
    return functions | estimators


def known(draws: int, seed: int, part: int, parts: int) -> Iterator[dict[str, Any]]:
    """Identifies algorithms with random parameters on random tasks, families in turn."""
    for number in range(part, draws, parts):
        rng = np.random.default_rng([seed, number])
        family = FAMILIES[number % len(FAMILIES)]
        task = random_task(rng)
        learner, parameters = random_algorithm(family, task, rng)
        if number // parts % 10 == 9:
            jax.clear_caches()  # programs of all these tasks would fill the memory
        began = time.perf_counter()
        report: Any = ml.identify(learner, task, key=ml.random.key(1000 * seed + number))
        yield {
            "number": number,
            "family": family,
            "given": parameters,
            "task": f"d={task.dim}, n={task.context_length}, {type(task.covariates).__name__}, "
            f"noise {task.noise.variance}",  # pyright: ignore
            "verdict": report.verdict,
            "names": list(report.names),
            "also": list(report.decision.also.get(report.name or "", ())),
            "parameters": report.parameters,
            "outcome": _outcome(family, report),
            "distance": float(report.dataset.distance.sel(candidate=family, regime="task"))
            if family in report.dataset.candidate
            else None,
            "seconds": time.perf_counter() - began,
        }


def _outcome(family: str, report: Any) -> str:
    if report.verdict == "named":
        same = {report.name, *report.decision.also.get(report.name or "", ())}
        return "right" if family in same else "wrong"
    if report.verdict == "set":
        within = {*report.names, *sum(report.decision.also.values(), ())}
        return "set" if family in within else "set without it"
    return report.verdict


def of_decoys(seed: int, part: int, parts: int) -> Iterator[dict[str, Any]]:
    """Identifies decoys on one task."""
    task = tasks.RegressionTask(
        tasks.Gaussian(5),
        tasks.LinearFunctions(5),
        noise=tasks.GaussianNoise(0.25),
        context_length=12,
    )
    for name, decoy in list(decoys(5).items())[part::parts]:
        began = time.perf_counter()
        adapter: dict[str, Any] = {} if hasattr(decoy, "fit") else {"adapter": "jax"}
        prompts = 1024 if hasattr(decoy, "fit") else 8192
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report: Any = ml.identify(
                decoy, task, key=ml.random.key(10_000 + seed), prompts=prompts, **adapter
            )
        nearest: Any = report.nearest
        yield {
            "decoy": name,
            "verdict": report.verdict,
            "names": list(report.names),
            "nearest": nearest["name"],
            "share": nearest["share"].value,
            "properties": [p.name for p in report.fingerprint.properties if p.holds]
            if report.fingerprint
            else [],
            "seconds": time.perf_counter() - began,
        }


def of_trained(store: Path | None, budget: str, seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Identifies the trained models of the study of von Oswald et al., and each of their layers.

    They are those that `mesalens reproduce von-oswald-2023` left in its store, or are trained now.
    """
    from mesalens.atlas.units import Units, units_of
    from mesalens.store import Store
    from mesalens.studies import find

    study, _ = find("von-oswald-2023")
    known, kept = units_of(study, study.values(budget), 0), Store(store)

    def trained(units: Units, seed: int) -> Any:
        entry = kept.get(units.address(seed))
        if entry is not None:
            return units.load(seed, entry.folder)
        run = units.train(seed, progress=lambda _: None, say=lambda _: None, checkpoint=None)
        with tempfile.TemporaryDirectory() as folder:
            units.save(run, Path(folder))
            return units.load(seed, Path(folder))

    for name in (name for name in TRAINED if name in known):
        runs = (trained(known[name], seed) for seed in range(2 * seeds))
        counted = itertools.islice((run for run in runs if run.counts), seeds)
        models = [(run.seed, run.learner, run.task) for run in counted]
        for seed, model, task in models:
            for layer in range(1, model.layers + 1):
                learner = learners.Iterate(model, layer) if layer < model.layers else model
                answer: Any = ml.identify(learner, task, key=ml.random.key(seed))
                yield {"model": name, "seed": seed, "layer": layer} | _row(answer)
        if len(models) > 1:
            procedure: Any = ml.identify([m for _, m, _ in models], models[0][2])
            yield {
                "model": name,
                "seeds": len(models),
                "verdict": procedure.verdict,
                "names": list(procedure.names),
                "floor": procedure.floor.value,
            }


def _row(answer: Any) -> dict[str, Any]:
    nearest: Any = answer.nearest
    found = answer.filter
    return {
        "verdict": answer.verdict,
        "names": list(answer.names),
        "described": answer.describe(nearest["name"]),
        "share": nearest["share"].value,
        "filter": None if found is None else found.values[-1].tolist(),
        "eigenvalues": None if found is None else found.eigenvalues.tolist(),
        "why": answer.no_filter,
    }


LAWS = {
    "two steps of descent, another rate": (
        learners.GradientDescent(0.3, 2),
        learners.GradientDescent(0.33, 2),
        12,
    ),
    "ridge and least squares": (learners.Ridge(1.0), learners.LeastSquares(), 12),
    "descent and Newton": (learners.GradientDescent(0.3, 3), learners.NewtonSchulz(2), 12),
    "descent and ridge": (learners.GradientDescent(0.3, 3), learners.Ridge(2.0), 12),
    "least squares and ridge, n = d + 2": (learners.LeastSquares(), learners.Ridge(1.0), 7),
}
"""Pairs of algorithms and a context length; d = 5. The last has terms with heavy tails."""


def coverage(replications: int = 1000, pairs: int = 512, seed: int = 1) -> dict[str, Any]:
    """How often the interval of level 95% contains the distance, for pairs of algorithms.

    The distance itself is that of 2 million pairs, of which none is in an interval.
    """
    rng, d, block = np.random.default_rng(seed), 5, 102_400

    def terms(first: Any, second: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
        xs = rng.standard_normal((2 * block, n, d))
        weights = rng.standard_normal((2 * block, d, 1))
        ys = xs @ weights + 0.5 * rng.standard_normal((2 * block, n, 1))
        queries = np.repeat(rng.standard_normal((block, d)), 2, axis=0)
        at = spectrum(xs, ys, queries)
        answers = [
            np.einsum("bi,bim->bm", at.query * a.spectral_filter(at.eigenvalues, n), at.sums)
            for a in (first, second)
        ]
        return distance.squares(answers[0] - answers[1]), distance.units(answers[0])

    found = {}
    for name, law in LAWS.items():
        whole = [terms(*law) for _ in range(20)]
        truth = np.mean([a.mean() for a, _ in whole]) / np.mean([v.mean() for _, v in whole])
        others = [terms(*law) for _ in range(-(-replications * pairs // block))]
        numerators, denominators = map(np.concatenate, zip(*others, strict=True))
        intervals = [
            distance.ratio(numerators[i : i + pairs], denominators[i : i + pairs], 0.05)
            for i in range(0, replications * pairs, pairs)
        ]
        found[name] = {
            "distance": truth,
            "replications": replications,
            "inside": np.mean([i.low <= truth <= i.high for i in intervals]),
            "too low": np.mean([i.high < truth for i in intervals]),
            "too high": np.mean([i.low > truth for i in intervals]),
        }
        print(name, found[name], flush=True)
    return found


def table(files: list[Path]) -> str:
    """The table of docs/pages/identify/known-answers.md, from the files of all parts."""
    results: dict[str, Any] = {"known": [], "decoys": [], "trained": [], "coverage": {}}
    for file in files:
        for name, rows in json.loads(file.read_text()).items():
            results[name] = results[name] + rows if isinstance(rows, list) else rows
    lines = []
    if results["known"]:
        outcomes = ("right", "wrong", "set", "in-distribution-only", "inconclusive", "none")
        lines += [f"| drawn from | {' | '.join(outcomes)} |", f"|---|{'---|' * len(outcomes)}"]
        counts = {family: Counter() for family in FAMILIES}
        for row in results["known"]:
            counts[row["family"]][row["outcome"]] += 1
        counts["all"] = sum(counts.values(), Counter())
        for family, count in counts.items():
            cells = (str(count[name] or "") for name in outcomes)
            lines.append(f"| {family} | {' | '.join(cells)} |")
        lines.append("")
    if results["decoys"]:
        lines += ["| decoy | verdict | nearest | share |", "|---|---|---|---|"]
        for row in results["decoys"]:
            verdict = ", ".join([row["verdict"], *row["names"]])
            share = f"{100 * row['share']:.1f}%" if row["share"] > 0 else "nothing"
            lines.append(f"| {row['decoy']} | {verdict} | {row['nearest']} | {share} |")
        lines.append("")
    if results["trained"]:
        lines += [
            "| trained | seed | layer | verdict | nearest | share |",
            "|---|---|---|---|---|---|",
        ]
        for row in results["trained"]:
            if "seeds" in row:
                about = f"floor {100 * row['floor']:.2g}%"
                verdict = ", ".join([row["verdict"], *row["names"]])
                lines.append(
                    f"| {row['model']} | all {row['seeds']} | last | {verdict} | {about} | |"
                )
                continue
            verdict = ", ".join([row["verdict"], *row["names"]])
            share = f"{100 * row['share']:.2f}%"
            nearest = ", ".join(row["described"].split(", ")[:2])
            cells = (row["model"], row["seed"], row["layer"], verdict, nearest, share)
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines.append("")
    if results["coverage"]:
        lines += [
            "| pair | distance | inside | interval too low | too high |",
            "|---|---|---|---|---|",
        ]
        for name, row in results["coverage"].items():
            shares = (f"{100 * row[key]:.1f}%" for key in ("inside", "too low", "too high"))
            lines.append(f"| {name} | {100 * row['distance']:.3g}% | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the parts asked for, and writes or extends a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=208)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="0/1", help="which share of the work, as 0/2")
    parser.add_argument("--only", choices=("known", "decoys", "coverage", "trained"))
    parser.add_argument("--store", type=Path, help="where trained models are kept")
    parser.add_argument("--budget", default="full", help="of the trained models")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--table", type=Path, nargs="+", help="make the table of these files")
    options = parser.parse_args()
    if options.table:
        print(table(options.table))
        return
    if options.out is None:
        parser.error("give --out FILE, or --table FILES")
    part, parts = map(int, options.part.split("/"))
    results: dict[str, Any] = {}
    if options.only in (None, "coverage") and part == 0:
        results["coverage"] = coverage()
        options.out.write_text(json.dumps(results, indent=1))
    if options.only == "trained":
        results["trained"] = []
        for row in of_trained(options.store, options.budget):
            results["trained"].append(row)
            print(json.dumps(row), flush=True)
            options.out.write_text(json.dumps(results, indent=1))
    if options.only in (None, "decoys"):
        results["decoys"] = []
        for row in of_decoys(options.seed, part, parts):
            results["decoys"].append(row)
            print(json.dumps(row), flush=True)
            options.out.write_text(json.dumps(results, indent=1))
    if options.only in (None, "known"):
        results["known"] = []
        for row in known(options.draws, options.seed, part, parts):
            results["known"].append(row)
            print(json.dumps(row), flush=True)
            options.out.write_text(json.dumps(results, indent=1))
        print(Counter(row["outcome"] for row in results["known"]), file=sys.stderr)
    options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
