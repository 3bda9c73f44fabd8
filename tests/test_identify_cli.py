"""`mesalens identify`: the commands of the documentation, what they print and keep, and bad input."""

import html
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.linear_model import Ridge as TheirRidge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mesalens as ml
from mesalens import InputError, cli, random
from mesalens.adapters import as_learner
from mesalens.cli import identify as command
from mesalens.identification import _identify as identification
from mesalens.identification import expected
from mesalens.identification.prompts import Source
from mesalens.identification.subject import Subject
from mesalens.progress import ProgressReport
from mesalens.tasks import (
    ClassificationTask,
    CondensedTask,
    Gaussian,
    GaussianNoise,
    LinearFunctions,
    RegressionTask,
)

pytest_plugins = ["small_training", "small_identification"]
pytestmark = pytest.mark.usefixtures("compiled_once")

SMALL = ("--dim", 2, "--context-length", 5, "--noise-variance", 0.25)
FEW = ("--prompts", 1024)

MODELS = '''
"""Models as a user writes them."""
import numpy as np


def predict(xs, ys, queries):
    gram = xs.mT @ xs + 0.25 * np.eye(xs.shape[-1])
    return np.einsum("bd,bdm->bm", queries, np.linalg.solve(gram, xs.mT @ ys))


def penalised(penalty=0.25, **others):
    """Makes a model, and shows of which types its parameters are."""
    if others:
        raise TypeError(", ".join(f"{k}: {type(v).__name__}" for k, v in others.items()))

    def ridge(xs, ys, queries):
        gram = xs.mT @ xs + penalty * np.eye(xs.shape[-1])
        return np.einsum("bd,bdm->bm", queries, np.linalg.solve(gram, xs.mT @ ys))

    return ridge


def inputs(xs, ys, queries):
    return xs


def sometimes_nan(xs, ys, queries):
    return np.where(queries[:, :1] > 1, np.nan, predict(xs, ys, queries))


def noisy(xs, ys, queries):
    return predict(xs, ys, queries) + np.random.default_rng().standard_normal((len(xs), 1))


def raises(xs, ys, queries):
    if (queries[:, 0] > 1).any():
        raise ArithmeticError("x is too large")
    return predict(xs, ys, queries)


def five_examples(xs, ys, queries):
    if xs.shape[1] != 5:
        raise ValueError("give 5 examples")
    return predict(xs, ys, queries)


number = 3
'''


def run(capsys, *arguments):
    """Exit code, standard output and standard error of one command."""
    try:
        code = cli.main(["identify", *map(str, arguments)])
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err, captured.err
    return code, captured.out, captured.err


def strictly(text):
    """JSON without NaN and infinities."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with the file of a user."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(MODELS)
    return tmp_path


@pytest.fixture(scope="module")
def runs(compiled_once, tmp_path_factory):
    """The folders of a run of two seeds and of a sweep. The training draws the sums S alone."""
    folder = tmp_path_factory.mktemp("runs")
    law = (*SMALL, "--covariates", "gaussian", "--condensed")
    train = (*law, "--steps", 10, "--batch-size", 16, "--every", 10)
    for words in (
        ("train", *train, "--seeds", 2, "--out", folder / "two"),
        ("sweep", *train, "--vary", "learning-rate=0.001,0.01", "--out", folder / "sweep"),
    ):
        assert cli.main([str(word) for word in words]) == 0
    return folder


def task(dim=2, context_length=5, outputs=1):
    functions, noise = LinearFunctions(dim, outputs), GaussianNoise(0.25)
    return RegressionTask(Gaussian(dim), functions, context_length=context_length, noise=noise)


def ridge(xs, ys, queries):
    gram = xs.mT @ xs + 0.7 * np.eye(xs.shape[-1])
    return np.einsum("bd,bdm->bm", queries, np.linalg.solve(gram, xs.mT @ ys))


def identified(model, of=None, **options):
    options = {"say": lambda line: None} | options  # on a busy machine anything may take long
    return ml.identify(model, of or task(), key=random.key(1), prompts=1024, **options)


# Answers

NAMES = {
    "verdict",
    "name",
    "parameters",
    "set",
    "nearest",
    "candidates",
    "fingerprint",
    "filter",
    "deterministic",
    "prompts",
    "margin",
    "level",
    "task",
    "seconds",
}


def test_a_function_in_a_file(folder, brief, capsys):
    covariates = ("--covariates", "gaussian")
    code, out, _ = run(capsys, "my_model.py:predict", *SMALL, *covariates, *FEW, "--json")
    answer = strictly(out)
    assert code == 0 and answer.keys() >= NAMES
    assert (answer["verdict"], answer["name"], answer["set"]) == ("named", "bayes", [])
    assert (answer["margin"], answer["level"]) == (0.01, 0.95)
    assert answer["deterministic"] is True and "RegressionTask" in answer["task"]
    nearest = answer["nearest"]
    low, high = nearest["interval"]
    assert nearest["name"] == "bayes" and low <= nearest["share"] <= high
    found = {each["name"]: each for each in answer["candidates"]}
    assert found["ridge"]["parameters"]["penalty"]["value"] == pytest.approx(0.25, rel=1e-3)
    assert found["zero"]["regimes"]["task"]["equivalent"] is False
    assert answer["fingerprint"]["order-free"]["holds"] is True
    assert len(answer["filter"]["g"][0]) == len(answer["filter"]["eigenvalues"])


def test_it_says_what_was_found_and_keeps_a_page(folder, brief, capsys):
    code, out, err = run(
        capsys, "my_model.py:penalised", "--set", "penalty=2", *SMALL, *FEW, "--out", "answer"
    )
    assert code == 0 and "ridge regression" in out and "penalty 2" in out
    assert "answer/index.html" in out
    files = {path.name for path in (folder / "answer").iterdir()}
    assert files >= {"index.html", "identification.json", "distances.nc", "figure.png"}
    kept = strictly((folder / "answer" / "identification.json").read_text())
    assert kept["name"] == "ridge"
    page = (folder / "answer" / "index.html").read_text()
    assert "<title>ridge: named, ridge (mesalens)</title>" in page
    assert "@misc{mesalens," in page and "@article{schuirmann-1987," in page
    assert cli.main(["cite", "answer"]) == 0
    assert capsys.readouterr().out.strip() in html.unescape(page)
    code, _, err = run(capsys, "my_model.py:predict", *SMALL, "--out", "answer")
    assert code == 2 and "answer" in err


@pytest.mark.slow
def test_a_page_has_a_short_title_and_the_whole_estimator(brief, tmp_path):
    estimator = make_pipeline(StandardScaler(), TheirRidge(alpha=3))
    found = identified(estimator)
    words = (
        "(steps=[('standardscaler', StandardScaler()), ('ridge', Ridge(alpha=3, random_state=0))"
    )
    assert words in found.content()["model"]
    found.save(tmp_path / "answer")
    page = (tmp_path / "answer" / "index.html").read_text()
    assert f"<title>Pipeline: {found.verdict} (mesalens)</title>" in page
    assert words in html.unescape(page)


@pytest.mark.slow
def test_a_run_of_several_seeds_is_a_procedure(runs, brief, capsys, tmp_path):
    code, out, _ = run(capsys, runs / "two", *FEW, "--json", "--out", tmp_path / "answer")
    answer = strictly(out)
    assert code == 0 and len(answer["seeds"]) == 2
    assert answer.keys() >= NAMES - {"fingerprint", "filter", "deterministic", "nearest"}
    assert all(seed.keys() >= NAMES for seed in answer["seeds"])
    assert "Condensed" not in answer["task"]  # models read the examples themselves
    assert (tmp_path / "answer" / "seed-1" / "index.html").is_file()


@pytest.mark.slow
def test_models_that_differ_with_their_losses_may_be_on_a_plateau(brief, tmp_path):
    def hint(folder, answer, *options):
        words = (*SMALL, "--covariates", "gaussian", "--seeds", 2, *options, "--out", folder)
        assert cli.main(["train", *map(str, words)]) == 0
        return command.Identify(learner=str(folder))._hint(answer)

    differ, same = (identified([ml.Ridge(0.2), ml.Ridge(p)]) for p in (5.0, 0.2))
    steps = ("--objective", "population", "--steps", 2, "--every", 2, "--init-scale", 0.5)
    said = hint(tmp_path / "early", differ, *steps)
    assert "may have stopped on a plateau" in said and "mesalens compare" in said
    assert command.Identify(learner=str(tmp_path / "early"))._hint(same) is None
    sampled = ("--steps", 2, "--every", 2, "--batch-size", 8, "--init-scale", 0.5)
    assert hint(tmp_path / "sampled", differ, *sampled) is None


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("3", 3),
        ("-0.5", -0.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("none", None),
        ("distance", "distance"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("(1, 2)", "(1, 2)"),
        ("a=b", "a=b"),
    ],
)
def test_values_of_set_are_plain(words, value):
    found = command.plain_values([f"name={words}"])
    assert found == {"name": value} and type(found["name"]) is type(value)


def test_values_of_set_reach_the_model_as_numbers(folder, capsys):
    values = ("--set", "a=1", "b=0.5", "c=true", "d=none", "e=word")
    code, _, err = run(capsys, "my_model.py:penalised", *values, *SMALL)
    assert code == 2 and "a: int, b: float, c: bool, d: NoneType, e: str" in err


def test_help_says_that_files_are_run(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and "Loading a .py file runs it" in out
    for word in ("--adapter", "--layout", "--set", "--margin", "--level", "--prompts", "--out"):
        assert word in out


def test_progress_says_what_is_done(folder, brief):
    said = []
    identified(ridge, progress=lambda words, share: said.append((words, share)))
    words, shares = zip(*said, strict=True)
    assert any("ridge" in each for each in words) and any("fingerprint" in each for each in words)
    assert all(0 <= share <= 1 for share in shares)


class Slow(TheirRidge):
    """An estimator that takes ten milliseconds."""

    def fit(self, X, y):
        time.sleep(0.01)
        return super().fit(X, y)


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        pytest.param(
            Slow(),
            r"One prediction takes [1-9]\d+ ms, because the estimator is fitted for each; some 2,000 "
            r"are needed at least, which takes about .* on \d+ cores?\. A smaller estimator",
            marks=pytest.mark.slow,
        ),
        (ridge, r"One prediction takes .*; some 2,000 are needed at least, which takes about .*"),
    ],
)
def test_what_takes_long_is_said_before_the_work(learner, words, brief, monkeypatch):
    monkeypatch.setattr(expected, "LONG_WORK", 0.0)
    messages, said, asked = [], [], []
    began = time.monotonic()

    def say(line):
        messages.append((line, time.monotonic() - began))

    def progress(words, share):
        said.append(words)
        asked.append(share)

    identified(learner, say=say, progress=progress)
    ((message, when),) = messages
    assert re.match(words, message) and when < 20
    assert any("predictions of some" in each for each in said)
    assert asked == sorted(asked)


class Timed(Subject):
    """A subject whose estimates a test makes up."""

    seconds, workers = 0.1, 2


def test_a_later_estimate_is_heard_where_the_first_was_too_low(brief, monkeypatch):
    messages, subject = [], Timed(ridge)
    subject.asked = 8
    found = expected.Expected(100, lambda words, share: None, messages.append)
    found.count(subject)
    assert not messages  # 10 s
    subject.asked, subject.seconds = 256, 1.0
    found.count(subject)
    subject.asked, subject.seconds = 512, 2.0
    found.count(subject)
    (message,) = messages
    assert "which takes about 1.7 minutes on 2 cores" in message


def test_the_time_left_is_that_of_the_predictions_so_far(brief):
    said, subject = [], Timed(ridge)
    found = expected.Expected(2000, lambda words, share: said.append(words), lambda line: None)
    found("fitting ridge", 0.1)
    subject.asked, subject.took = 512, 51.2
    found.count(subject)
    found("fitting lasso", 0.2)
    subject.asked, subject.took = 1000, 1000.0  # ten times as slow as was announced
    found.count(subject)
    found("measuring", 0.5)
    subject.asked = 1999
    found.count(subject)
    assert said == [
        "fitting ridge",
        "fitting ridge: 512 predictions of some 2,000, about 2.5 minutes left",
        "fitting lasso, about 2.5 minutes left",
        "fitting lasso: 1,000 predictions of some 2,000, about 17 minutes left",
        "measuring, about 17 minutes left",
        "measuring: 1,999 predictions of some 2,000",
    ]


def test_a_subject_knows_how_long_its_predictions_took(brief):
    subject = Subject(as_learner(Slow()))
    subject(Source(task(), random.key(0)).draw(16, (0,)))
    assert subject.took >= 16 * 0.01 / os.cpu_count()


def test_no_time_is_left_where_none_was_announced(brief):
    said, subject = [], Timed(ridge)
    found = expected.Expected(200, lambda words, share: said.append(words), lambda line: None)
    subject.asked, subject.took = 100, 100.0
    found.count(subject)
    found("fitting ridge", 0.1)
    assert said == ["fitting ridge"]


def test_a_message_about_long_work_is_a_warning_or_a_line(brief, folder, monkeypatch, capsys):
    monkeypatch.setattr(expected, "LONG_WORK", 0.0)
    with pytest.warns(UserWarning, match="One prediction takes"):
        ml.identify(ridge, task(), prompts=1024)
    _, out, err = run(capsys, "my_model.py:predict", *SMALL, *FEW)
    assert "One prediction takes" in err and "One prediction" not in out
    messages = []
    identified([ridge, ridge], say=messages.append)
    assert len(messages) == 1 and "one of 2 models" in messages[0]


@pytest.mark.parametrize("of", [(2, 5), (1, 1)])
def test_as_many_prompts_are_asked_as_were_expected(of, brief, monkeypatch):
    """By an answer without a name and without a filter, which needs the fewest."""
    found = identified(lambda xs, ys, queries: np.tanh(ridge(xs, ys, queries)) ** 3, task(*of))
    source = Source(task(*of), random.key(1))
    assert found.verdict == "none" and found.filter is None
    assert found.prompts == expected.least_prompts(source, identification.REGIMES, 1024)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.00123, "1.2 ms"),
        (0.11, "110 ms"),
        (1.5, "1.5 s"),
        (1300.0, "22 minutes"),
        (9e3, "2.5 hours"),
    ],
)
def test_durations_are_in_words(seconds, words):
    assert expected.duration(seconds) == words


# scikit-learn


def test_nearest_neighbours_of_scikit_learn_are_named(brief, capsys):
    code, out, _ = run(
        capsys,
        "sklearn.neighbors:KNeighborsRegressor",
        *("--set", "n_neighbors=4", *SMALL, *FEW, "--json"),
    )
    answer = strictly(out)
    assert code == 0 and answer["name"] == "nearest-neighbours"
    assert answer["parameters"]["neighbours"]["value"] == 4
    assert answer["fingerprint"]["hull"]["holds"] is True
    assert answer["filter"].keys() == {"reason"}
    # With fewer than 4 examples the estimator refuses
    assert "n_neighbors" in answer["left_out"]["regime short"]
    assert all("short" not in each["regimes"] for each in answer["candidates"])


@pytest.mark.slow
def test_ridge_of_scikit_learn_is_named_with_its_penalty(brief):
    found = identified(TheirRidge(alpha=0.7, fit_intercept=False))
    assert found.name == "ridge"
    assert found.parameters["penalty"]["value"] == pytest.approx(0.7, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator", [KNeighborsRegressor(3), TheirRidge(0.7, fit_intercept=False)]
)
def test_estimators_are_named_among_all_families_in_all_regimes(estimator):
    found = identified(estimator)
    assert found.name in ("nearest-neighbours", "ridge")


# Tasks of other kinds


@pytest.mark.parametrize(
    ("dim", "context_length"), [(1, 5), (2, 1), (1, 1), pytest.param(3, 2, marks=pytest.mark.slow)]
)
def test_a_small_task_leaves_out_what_makes_no_sense(brief, dim, context_length):
    found = identified(ridge, task(dim, context_length))
    assert found.verdict in ("named", "set") and "ridge" in found.names
    assert found.left_out and all(found.left_out.values())
    if context_length == 1:
        assert found.fingerprint["order-free"].why
    assert found.filter is not None or found.no_filter
    json.dumps(found.content())
    assert str(found)


def test_several_outputs(brief):
    found = identified(ridge, task(outputs=2))
    assert found.name == "ridge"
    assert found.parameters["penalty"]["value"] == pytest.approx(0.7, rel=1e-3)


@pytest.mark.slow
def test_a_classifier_of_scikit_learn_on_a_task_of_classes(brief):
    classes = ClassificationTask(Gaussian(2), LinearFunctions(2, 3), context_length=8)
    found = identified(GaussianNB(), classes)
    assert found.verdict in ("none", "inconclusive") and found.name is None
    assert found.no_filter == "labels are classes"
    json.dumps(found.content())


def test_a_regressor_is_identified_on_a_task_of_classes(brief):
    classes = ClassificationTask(Gaussian(2), LinearFunctions(2, 3), context_length=8)
    assert "ridge" in identified(ridge, classes).names


@pytest.mark.slow
@pytest.mark.parametrize(
    "of",
    [
        task(1, 5),
        task(2, 1),
        task(2, 2),
        task(1, 1),
        task(2, 5, 2),
        ClassificationTask(Gaussian(2), LinearFunctions(2, 3), context_length=8),
        ClassificationTask(Gaussian(1), LinearFunctions(1, 2), context_length=1),
    ],
)
def test_all_families_on_tasks_of_all_kinds(of, tmp_path):
    found = identified(ridge, of)
    assert "ridge" in found.names or found.verdict == "inconclusive"
    found.save(tmp_path / "answer")
    strictly((tmp_path / "answer" / "identification.json").read_text())


def test_a_property_is_listed_though_it_does_not_hold_for_every_prompt(brief):
    smooth = ml.learners.KernelRidge(0.3, 1.5)
    prompts = Source(task(), random.key(0)).draw(1024, (2,))
    answers = Subject(smooth)(prompts)
    low, high = prompts.ys.min(axis=1), prompts.ys.max(axis=1)
    assert ((answers < low) | (answers > high)).any()
    assert "hull" in re.search("properties: (.*)", str(identified(smooth)))[1].split(", ")


# Bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), ("folder nowhere",)),
        (("nowhere", "--dim", 3), ("folder nowhere",)),
        (("no.where", "--dim", 3), ("folder no.where",)),
        (("no/such.folder",), ("folder no/such.folder",)),
        (("sklearn.svm.SVR", "--dim", 3), ("MODULE:NAME; did you mean sklearn.svm:SVR?",)),
        (("sklearn.svm",), ("did you mean sklearn.svm:NAME?",)),
        (("my_model.py.predict",), ("did you mean my_model.py:predict?",)),
        (("",), ("empty",)),
        ((), ("LEARNER",)),
        (("nowhere.py:predict", *SMALL), ("no file nowhere.py",)),
        (("my_model.py:nothing", *SMALL), ("my_model.py has no 'nothing'",)),
        (("my_model.py:number", *SMALL), ("int",)),
        (("no_such_module:Thing", *SMALL), ("no_such_module",)),
        (("my_model.py:inputs", *SMALL), ("inputs", "(256, 1)", "(256, 5, 2)")),
        (("my_model.py:sometimes_nan", *SMALL), ("sometimes_nan", "NaN")),
        (("my_model.py:noisy", *SMALL), ("different predictions", "margin")),
        (("my_model.py:predict", *SMALL, "--set", "penalty=1"), ("predict", "'penalty'")),
        (("my_model.py:predict", *SMALL, "--set", "penalty"), ("set: ", "'penalty'")),
        (("my_model.py:predict", *SMALL, "--set", "a=1", "a=2"), ("set: ", "'a'", "twice")),
        (("my_model.py", *SMALL), ("my_model.py is a file", "my_model.py:NAME")),
        (("my_model.py:predict", *SMALL, "--readouts", "none"), ("'none'", "file.py:NAME")),
        (("my_model.py:predict", *SMALL, "--adapter", "pytorch"), ("pytorch", "torch")),
        (("my_model.py:predict", *SMALL, "--condensed"), ("condensed",)),
        (("my_model.py:predict", *SMALL, "--layout", "joint"), ("layout", "predict", "numpy")),
        (("my_model.py:predict", *SMALL, "--readouts", "my_model.py:inputs"), ("readouts", "(2,")),
        (("my_model.py:predict", *SMALL, "--readouts", "my_model.py:none"), ("'none'",)),
        (("my_model.py:predict", *SMALL, "--margin", 0), ("margin", "0")),
        (("my_model.py:predict", *SMALL, "--margin", 1), ("margin", "1")),
        (("my_model.py:predict", *SMALL, "--margin", "nan"), ("margin", "nan")),
        (("my_model.py:predict", *SMALL, "--level", 1), ("level", "1")),
        (("my_model.py:predict", *SMALL, "--level", 0), ("level", "0")),
        (("my_model.py:predict", *SMALL, "--prompts", 1000), ("prompts", "1024", "1000")),
        (("my_model.py:predict", *SMALL, "--out", "."), ("not empty",)),
        (("my_model.py:predict", *SMALL, "--out", "my_model.py"), ("my_model.py is a file",)),
        (("my_model.py:predict", *SMALL, "--device", "nowhere"), ("device", "nowhere")),
        (("my_model.py:predict", "--dim", 0), ("dim", "0")),
        (
            ("sklearn.neighbors:KNeighborsRegressor", "--set", "neighbours=3", *SMALL),
            ("'neighbours'", "n_neighbors"),
        ),
        (
            ("sklearn.neighbors:KNeighborsRegressor", "--set", "n_neighbors=20", *SMALL),
            ("KNeighborsRegressor", "n_neighbors = 20", "n_samples_fit = 5"),
        ),
        (("sklearn.naive_bayes:GaussianNB", *SMALL), ("GaussianNB", "one-hot")),
    ],
)
def test_bad_input_gets_a_sentence(arguments, words, folder, capsys):
    began = time.monotonic()
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "", err
    sentence = err.splitlines()[-1]
    assert sentence.startswith("mesalens: ") and sentence[-1] in ".?"
    for word in words:
        assert word in sentence
    assert time.monotonic() - began < 60


def test_the_prompt_on_which_a_function_raises_is_kept(folder, capsys):
    code, _, err = run(capsys, "my_model.py:raises", *SMALL)
    (file,) = folder.glob("mesalens-prompt-*.npz")
    assert code == 2 and "ArithmeticError: x is too large" in err and file.name in err
    with np.load(file) as prompt:
        assert prompt["xs"].shape == (5, 2) and prompt["query"][0] > 1


def test_folders_with_something_else(runs, folder, capsys):
    for given in (
        *(("--dim", 3), ("--noise-variance", 1), ("--task", "classification")),
        *(("--covariates", "student-t", "--task.covariates.degrees-of-freedom", 5),),
        *(("--set", "a=1"), ("--adapter", "torch"), ("--layout", "joint")),
        ("--task.distractors", 1),
    ):
        code, _, err = run(capsys, runs / "two", *given)
        assert code == 2 and f"{given[-2]} cannot be given for the folder" in err
    code, _, err = run(capsys, runs / "sweep")
    assert code == 2 and "sweep" in err and "learning_rate" in err
    (folder / "report").mkdir()
    content = {"format": 1, "kind": "report", "environment": {"mesalens": ml.__version__}}
    (folder / "report" / "manifest.json").write_text(json.dumps(content))
    code, _, err = run(capsys, "report")
    assert code == 2 and "report" in err
    (folder / "other").mkdir()
    code, _, err = run(capsys, "other")
    assert code == 2 and "settings.json" in err


def fails(xs, ys, queries):
    raise ArithmeticError("no")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: identified(fails), "ArithmeticError: no"),
        (lambda: identified(lambda xs, ys, queries: queries), r"\(64, 2\)"),
        (lambda: identified(lambda xs, ys, queries: np.nan * queries[:, 0]), "NaN"),
        (lambda: identified(ridge, CondensedTask(task())), "condensed"),
        (lambda: identified(ridge, Gaussian(3)), r"^task must be a Task; got Gaussian"),
        (lambda: identified(3), "int"),
        (lambda: identified([ridge]), "models"),
        (lambda: identified([ridge, fails]), "model 2 of 2"),
        (lambda: identified([ridge, ridge], readouts=ridge), "readouts"),
        (lambda: identified(ridge, margin=-0.1), "margin"),
        (lambda: identified(ridge, margin=2.0), "margin"),
        (lambda: identified(ridge, level=0.0), "level"),
        (lambda: identified(ridge, candidates={"mine": 3}), "mine"),
        (lambda: ml.identify(ridge, task(), prompts=10), "prompts"),
        (lambda: identified(ridge, adapter="pytorch"), "pytorch"),
        (
            lambda: ml.identify(ridge, task(), prompt=2048),
            "^identify has no argument 'prompt'; did you mean prompts",
        ),
        (lambda: identified([ridge, ridge], parameter={}), "^identify .*; did you mean parameters"),
        (lambda: identified(ridge, subject=ridge), "^identify has no argument 'subject'"),
        (lambda: identified(ridge, zzz=1), r"^identify has no argument 'zzz'\.$"),
    ],
)
def test_bad_input_in_the_library(call, words, brief, unchecked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value) and str(caught.value)[-1] in ".?"


def test_a_regime_in_which_a_function_fails_is_left_out_and_no_prompt_is_kept(
    folder, brief, capsys
):
    code, out, _ = run(capsys, "my_model.py:five_examples", *SMALL, *FEW, "--json")
    answer = strictly(out)
    assert code == 0 and "give 5 examples" in answer["left_out"]["regime short"]
    assert list(folder.glob("*.npz")) == []


# Interruption


def test_an_interruption_gives_the_terminal_back(monkeypatch):
    calls = []
    monkeypatch.setattr(command, "leave", lambda number, frame: calls.append(number))
    monkeypatch.setattr(ProgressReport, "close", lambda self: calls.append("closed"))
    command._leaving(ProgressReport())(signal.SIGINT, None)
    assert calls == ["closed", signal.SIGINT]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such signals")
@pytest.mark.parametrize("seconds", [1.0, 6.0, 12.0])
def test_ctrl_c_ends_with_130_and_no_traceback(folder, seconds):
    many = ("--prompts", 2**20)  # so that it does not end before it is interrupted
    words = ("-m", "mesalens", "identify", "sklearn.neighbors:KNeighborsRegressor", *SMALL, *many)
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes of the group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert "Traceback" not in err and "interrupted" in err
