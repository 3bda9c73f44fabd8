"""Studies as declarations, carried out in a session."""

import functools
import html
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from small_study import BESIDE, STUDY, best_preconditioner, one_layer

import mesalens as ml
from mesalens import InputError, user_files
from mesalens.atlas import (
    Alike,
    Session,
    Study,
    above,
    compared,
    compared_with_each,
    leaves_plateau,
    within,
)
from mesalens.atlas.results import code_digest
from mesalens.atlas.study import Lab, Values, measurement
from mesalens.cli import main
from mesalens.studies import find, split, study

FILE = Path(__file__).with_name("small_study.py")


class Said(list):
    """Notes what a session says."""

    def __call__(self, line):
        self.append(line)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("shared") / "store"


@pytest.fixture(scope="module")
def first(store):
    return Session(store, say=Said()).reproduce(STUDY, budget="full")


def outcomes(report):
    return {v.claim.name: (v.judgement.outcome, v.judgement.value) for v in report.verdicts}


def test_claims_are_judged_and_say_what_they_are(first):
    assert [v.claim.name for v in first.verdicts] == ["risk", "exact", "noisy", "tasks-differ"]
    assert first["exact"].judgement.outcome == "PASS"
    assert first["exact"].claim.statement == "Nothing is added to nothing."
    assert first["exact"].claim.estimator == "the sum, for two settings"
    assert first["risk"].experiments == ["one-layer"]
    assert not any(v.taken for v in first.verdicts)
    values = first["tasks-differ"].judgement.values
    assert len(set(values.values())) == len(values)


def test_seeds_are_added_until_a_claim_is_decided(first):
    assert first["exact"].look == 1 and first["exact"].judgement.seeds_run == 2
    assert first["noisy"].look == 2 and first["noisy"].judgement.seeds_run == 4


def test_a_second_time_everything_is_taken(first, store, monkeypatch):
    monkeypatch.setattr("mesalens.training.engine.Engine.train", None)
    monkeypatch.setattr("mesalens.atlas.work.finished", None)
    again = Session(store, say=Said()).reproduce(STUDY, budget="full")
    assert outcomes(again) == outcomes(first)
    assert all(v.taken for v in again.verdicts)
    (experiment, *_) = again.content()["studies"][0]["experiments"]
    assert all(unit["taken"] for unit in experiment["units"])


def test_claims_named_apart_are_of_one_study(first, store, tmp_path):
    names = [f"{FILE}/risk", f"{FILE}/exact"]
    report = Session(store, say=Said()).reproduce(*names, budget="full")
    assert outcomes(report) == {name: outcomes(first)[name] for name in ("risk", "exact")}
    report.save(tmp_path / "report")
    saved = ml.load(tmp_path / "report")
    assert len(saved.content["studies"]) == 1
    assert saved.trained("one-layer").seed == 0


def test_what_is_fresh_has_the_same_values(first, store):
    session = Session(store, say=Said(), fresh=True)
    fresh = session.reproduce(STUDY, budget="full")
    assert outcomes(fresh) == outcomes(first)
    assert not any(v.taken for v in fresh.verdicts)


def test_a_claim_alone_trains_what_it_needs(tmp_path):
    session = Session(tmp_path / "store", say=Said())
    report = session.reproduce(f"{FILE}/tasks-differ", budget="small")
    assert [v.claim.name for v in report.verdicts] == ["tasks-differ"]
    kept = {entry.about.get("experiment") for entry in session.store.entries()} - {None}
    assert kept == {"own-tasks"}
    assert report.studies[0].figures == []


def test_trainings_are_shared_by_what_they_compute(first, store, monkeypatch):
    """Another name for the same computation takes the same result."""
    monkeypatch.setattr("mesalens.atlas.examination.code_digest", lambda study: "other code")
    session = Session(store, say=Said())
    report = session.reproduce(STUDY, budget="full")
    units = report.content()["studies"][0]["experiments"][0]["units"]
    assert all(unit["taken"] for unit in units) and not any(v.taken for v in report.verdicts)


def test_a_damaged_result_is_made_again_with_the_same_bits(first, store, tmp_path):
    shutil.copytree(store, tmp_path / "store")
    said = Said()
    session = Session(tmp_path / "store", say=said)
    unit = next(e for e in session.store.entries() if e.about.get("experiment") == "one-layer")
    before = (unit.folder / "weights.safetensors").read_bytes()
    damaged = bytearray(before)
    damaged[-3] ^= 1
    (unit.folder / "weights.safetensors").write_bytes(damaged)
    for entry in session.store.entries():
        if entry.about.get("result") in ("risk", "compared", "loss"):
            session.store.remove(entry)
    report = session.reproduce(STUDY, budget="full")
    assert outcomes(report)["risk"] == outcomes(first)["risk"]
    assert any("checksum" in line for line in said)
    assert (unit.folder / "weights.safetensors").read_bytes() == before


def test_a_false_world_fails(tmp_path):
    claim = next(claim for claim in STUDY.claims if claim.name == "exact")
    values = claim.falsified().call(Lab(STUDY.values("small"), 0, "x", 0), {})
    assert float(values.max()) == 1.0


def test_a_report_says_whether_claims_fail_where_they_are_false(first, tmp_path):
    session = Session(tmp_path / "store", say=Said())
    false = session.reproduce(STUDY, budget="small", falsify=True)
    assert false.as_expected and false.studies[0].left_out == ("risk", "noisy", "tasks-differ")
    assert false.falsification() == "The claim fails where it is false, as it should."
    assert false.content()["falsified"] and "each where it is false" in repr(false)
    assert first.as_expected and not first.falsification() and not first.studies[0].left_out
    assert first.content()["falsified"] is False


def test_two_sessions_share_a_store(tmp_path):
    reports = {}

    def carry_out(number):
        session = Session(tmp_path / "store", say=Said(), workers=1)
        reports[number] = session.reproduce(f"{FILE}/tasks-differ", budget="small")

    threads = [threading.Thread(target=carry_out, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes(reports[0]) == outcomes(reports[1])
    kept = [e for e in Session(tmp_path / "store").store.entries() if e.about["kind"] == "unit"]
    assert len(kept) == reports[0]["tasks-differ"].judgement.seeds_run


class StopError(Exception):
    pass


def test_a_session_that_is_stopped_loses_nothing(tmp_path, first, monkeypatch):
    begun = time.monotonic()
    states = tmp_path / "store" / "unfinished"

    def check():
        if list(states.glob("*/*.safetensors")) or time.monotonic() - begun > 100:
            raise StopError

    monkeypatch.setattr("mesalens.training.checkpoint.SECONDS_BETWEEN_SAVES", 0.0)
    with pytest.raises(StopError):
        Session(tmp_path / "store", say=Said(), check=check).reproduce(STUDY, budget="full")
    report = Session(tmp_path / "store", say=Said()).reproduce(STUDY, budget="full")
    assert outcomes(report) == outcomes(first)
    assert list(states.iterdir()) == []


def test_a_training_that_diverges_does_not_count_and_the_others_go_on(tmp_path):
    broken = Study("broken", title="B", citation="B", settings={"dim": 2, "steps": 40}, quick={})

    huge = one_layer.given(rate=1e30)

    @broken.claim("1", within(1.0), headline=True)
    def finite(lab, trained=huge):
        """It is finite.

        Measured: the loss.
        """
        return trained.last.loss

    @broken.claim("1", within(1.0), headline=True)
    def other(lab):
        """Zero is.

        Measured: zero.
        """
        return 0.0

    said = Said()
    report = Session(tmp_path / "store", say=said).reproduce(broken, seeds=2)
    assert report["other"].outcome == "PASS"
    with pytest.raises(InputError, match=r"no claim 'othr'.*other"):
        report["othr"]
    assert "No seed counts (2 computed)" in report["finite"].judgement.why
    assert any("diverged" in line for line in said)


def test_the_report_is_written_and_read_back(first, tmp_path):
    first.save(tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "A &lt;small&gt; study" in page and "&lt;b&gt;not bold&lt;/b&gt;" in page
    assert "There are 2 seeds." in page
    saved = ml.load(tmp_path / "report")
    content = json.loads((tmp_path / "report" / "verdicts.json").read_text())
    assert saved.content == content and saved.claims["risk"]["figures"] == ["loss"]
    assert saved.evidence("noisy").sizes["seed"] == 4
    assert (tmp_path / "report" / "figures" / "small-2026" / "loss.pdf").stat().st_size > 1000
    with (tmp_path / "report" / "verdicts.json").open("a") as file:
        file.write(" ")
    with pytest.raises(InputError, match="checksum"):
        ml.load(tmp_path / "report")


def test_learners_of_a_report_are_read_back(tmp_path):
    report = Session(tmp_path / "store", say=Said()).reproduce(str(FILE), budget="small")
    report.save(tmp_path / "report")
    saved = ml.load(tmp_path / "report")
    trained = saved.trained("one-layer", 1)
    assert trained.seed == 1 and np.isfinite(trained.learner.weights.W_Q).all()
    with pytest.raises(InputError, match="one-layer"):
        saved.trained("two-layers")


def test_a_report_has_what_another_reader_needs_to_repeat_it(tmp_path, monkeypatch):
    """The file of the study, as it was when it was imported, under the name on which keys depend."""
    file = tmp_path / "my own" / "small.py"
    file.parent.mkdir()
    file.write_bytes(FILE.read_bytes())
    asked = {"budget": "small", "settings": {"seeds": (2, 4)}}
    report = Session(tmp_path / "one", say=Said()).reproduce(
        f"{file}/noisy", f"{file}/risk", **asked
    )
    file.write_text("# something else")
    report.save(tmp_path / "report")
    file.unlink()
    copy = "study/small-2026/small.py"
    assert (tmp_path / "report" / copy).read_bytes() == FILE.read_bytes()
    manifest = json.loads((tmp_path / "report" / "manifest.json").read_text())
    assert copy in manifest["sha256"]
    page = (tmp_path / "report" / "index.html").read_text()
    command = f"mesalens reproduce {copy}/noisy {copy}/risk --budget small --seed 0 "
    command += "--set 'seeds=(2,4)'"
    assert html.escape(command) in page.replace("&#39;", "&#x27;") and f'href="{copy}"' in page
    assert json.loads((tmp_path / "report" / "verdicts.json").read_text())["command"] == command
    assert ml.load(tmp_path / "report").trained("one-layer", 1).seed == 1
    monkeypatch.chdir(tmp_path / "report")
    words = shlex.split(command)[1:]
    main([*words, "--store", str(tmp_path / "two"), "--out", str(tmp_path / "again")])
    claims = [ml.load(tmp_path / name).claims for name in ("report", "again")]
    assert claims[0]["noisy"]["values"] == claims[1]["noisy"]["values"]
    # A study as it is, and one of the package
    session = Session(tmp_path / "one", say=Said())
    assert (
        f" {'study/small-2026/small_study.py'} "
        in session.reproduce(STUDY, **asked).content()["command"]
    )
    built = study("ahn-2023")
    assert not built.own and built.source is None


def test_a_study_imports_files_beside_it_and_its_report_has_them(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "helpers_of_it.py").write_text("SHIFT = 0.25\n")
    text = FILE.read_text().replace(
        "import numpy as np\n", "import helpers_of_it\nimport numpy as np\n", 1
    )
    (folder / "own.py").write_text(text.replace("shift=0.0", "shift=helpers_of_it.SHIFT * 0"))
    monkeypatch.setattr(sys, "path", sys.path.copy())
    report = Session(tmp_path / "store", say=Said()).reproduce(
        f"{folder / 'own.py'}/exact", budget="small"
    )
    report.save(tmp_path / "report")
    copies = tmp_path / "report" / "study" / "small-2026"
    assert sorted(file.name for file in copies.iterdir()) == ["helpers_of_it.py", "own.py"]
    shutil.rmtree(folder)
    del sys.modules["helpers_of_it"]
    again = Session(tmp_path / "other", say=Said()).reproduce(
        f"{copies / 'own.py'}/exact", budget="small"
    )
    assert again["exact"].outcome == report["exact"].outcome == "PASS"
    names = [source.module for source in user_files.sources()]
    assert names.index("helpers_of_it") < next(
        place for place, source in enumerate(user_files.sources()) if "own.py" in source.path
    )


def test_a_worker_imports_a_file_again_if_one_beside_it_has_changed(tmp_path, monkeypatch):
    """Its own text is the same, and what it imported from the other is not."""
    for state in ("_imported", "_sent", "_contents", "_siblings"):
        monkeypatch.setattr(user_files, state, dict(getattr(user_files, state)))
    monkeypatch.setattr(sys, "path", sys.path.copy())
    main = str(tmp_path / "elsewhere" / "main_of_it.py")
    beside = str(tmp_path / "elsewhere" / "values_of_it.py")
    for value in (1, 2):
        user_files.receive(
            [
                user_files.Source(beside, "values_of_it", f"VALUE = {value}\n"),
                user_files.Source(main, "main_of_it", "from values_of_it import VALUE\n"),
            ],
            tmp_path,
        )
        assert value == sys.modules["main_of_it"].VALUE


def test_the_file_of_a_study_may_lie_in_any_folder():
    assert split("a.py/b.py/c.py/risk") == ("a.py", "b.py/c.py/risk")
    assert split("/home/.pyenv/x.python/own.py") == ("/home/.pyenv/x.python/own.py", None)
    assert split("/home/.pyenv/own.py/risk") == ("/home/.pyenv/own.py", "risk")
    assert split("ahn-2023/risk") == ("ahn-2023", "risk") and split("a/") == ("a", None)


def test_settings_can_be_changed_and_the_command_says_so(tmp_path):
    session = Session(tmp_path / "store", say=Said())
    report = session.reproduce(
        f"{FILE}/tasks-differ", budget="small", settings={"dim": "3"}, seeds=2
    )
    assert report.studies[0].values.dim == 3
    assert report.command().endswith("--budget small --seed 0 --seeds 2 --set dim=3")
    for settings, word in ({"dim": "many"}, "dim"), ({"dmi": "3"}, "dim"), ({"dim": "2.5"}, "dim"):
        with pytest.raises(InputError, match=word):
            session.reproduce(str(FILE), budget="small", settings=settings)


def test_names_are_found_or_the_nearest_are_named():
    assert find("ahn-2023/depth-gains")[1] == "depth-gains"
    with pytest.raises(InputError, match="did you mean von-oswald-2023"):
        study("von-oswald")
    with pytest.raises(InputError, match="did you mean risk"):
        STUDY.select(["rsk"], "quick")
    with pytest.raises(InputError, match="full"):
        STUDY.values("ful")
    with pytest.raises(InputError, match="no file"):
        study("nothing.py")


CLAIM = """
from mesalens.atlas import Alike, Study, within, above
STUDY = Study("own", title="O", citation="O", settings={{}}, quick={{}}, full={{}})

{0}
"""
GOOD = '''@STUDY.claim("1", within(0.1))
def one(lab):
    """A.

    Measured: a.
    """
    return 0.0
'''


@pytest.mark.parametrize(
    ("claims", "line", "words"),
    [
        (GOOD.replace("return 0.0", "pass"), 5, "returns no evidence"),
        (GOOD + "\n" + GOOD, 13, r"already has a part or claim called one"),
        (
            2 * "@STUDY.experiment\ndef two(s):\n    pass\n\n",
            9,
            r"already has an experiment called two",
        ),
        (2 * "@STUDY.figure\ndef two(lab):\n    pass\n\n", 9, r"already has a figure called two"),
        (GOOD.replace("within(0.1)", "within(float('inf'))"), 5, "bound"),
        (GOOD.replace("Measured", "By"), 5, "Measured"),
        (GOOD.replace("(lab)", "(lab, x)"), 5, "x needs a default"),
        (GOOD.replace("0.1)", "0.1), must_fail_on={'y': 1}"), 5, "y"),
        (2 * "Alike(STUDY, None, 'a', 'b')('two', 'risk', '1', within(0.1))\n", 6, "called two"),
        ("import nothing_of_that_name", 5, "nothing_of_that_name"),
        ("x = = 1", 5, "syntax"),
    ],
)
def test_a_wrong_declaration_is_an_error_at_import_that_names_the_line(
    claims, line, words, tmp_path
):
    file = tmp_path / "own.py"
    file.write_text(CLAIM.format(claims))
    with pytest.raises(InputError, match=words) as error:
        study(str(file))
    assert re.search(rf"own\.py:{line}\b", str(error.value))


@pytest.mark.parametrize(
    "declaration",
    [GOOD.replace("within(0.1)", "0.1"), "Alike(STUDY, None, 'a', 'b')('two', 'risk', '1', 0.1)\n"],
)
def test_a_number_is_no_criterion(declaration, tmp_path):
    """In a process of its own, where arguments are not checked against their annotations."""
    file = tmp_path / "own.py"
    file.write_text(CLAIM.format(declaration))
    command = [sys.executable, "-m", "mesalens", "list", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert re.search(r"own\.py:5: the criterion .* such as within\(0\.1\).*; got 0\.1", run.stderr)


@pytest.mark.parametrize(
    ("declaration", "name", "words"),
    [
        (GOOD.replace("0.0", "'small'"), "claim one", "a number, .*; got 'small'"),
        (GOOD.replace("0.0", "None"), "claim one", "a number, .*; got None"),
        (GOOD.replace("0.0", "{'a': 1.0}"), "claim one", "a number, .*; got dict"),
        (GOOD.replace("0.0", "xr.DataArray(['a'])"), "claim one", "a number, .*; got DataArray"),
        (GOOD + "@STUDY.remark\ndef two(lab):\n    return 3\n", "remark two", "text; got 3"),
        (
            "@STUDY.measurement\ndef two(lab):\n    return 3.0\n"
            + GOOD.replace("(lab)", "(lab, two=two)"),
            "measurement two",
            "numbers .* by name, .* got 3.0",
        ),
    ],
)
def test_what_a_function_returns_must_be_of_its_kind(declaration, name, words, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(CLAIM.format("import xarray as xr\n" + declaration))
    session = Session(tmp_path / "store", say=Said())
    with pytest.raises(InputError, match=rf"own\.py:\d+: the {name} must return {words}"):
        session.reproduce(f"{file}/one" if "remark" not in name else str(file), budget="full")


def test_no_two_purposes_share_a_key():
    def lab(purpose, seed, study_seed=0):
        return Lab(Values(), study_seed, purpose, seed)

    keys = [
        tuple(np.asarray(ml.random.jax.random.key_data(each.key(*words))).tolist())
        for each in (lab("a", 0), lab("a", 1), lab("b", 0), lab("a", 0, 1), lab("a", None))
        for words in ((), ("x",), ("y",), ("x", "y"), ("xy",))
    ]
    assert len(set(keys)) == len(keys)


def test_standard_claims_say_what_they_compare_and_fail_on_what_is_untrained():
    study = Study("standard", title="S", citation="S", settings={}, quick={})
    alike = Alike(study, BESIDE, "a layer", "a step", seeds="all seeds")
    same = alike("same", "risk", "1", within(0.1))
    assert same.statement == "The risk of a layer is that of a step."
    assert same.estimator == "R / R_ref - 1, both on the same fresh prompts; all seeds"
    assert alike("worse", "risk", "1", above(0.1)).statement.endswith("is above that of a step.")
    assert same.needs["compared"].identity == BESIDE.identity
    untrained = same.falsified().needs["compared"].needs["trained"]
    made = untrained.call(STUDY.values("small"), {})
    assert (made.steps, made.counts) == (1, None)
    other = BESIDE.given(trained=one_layer.given(rate=0.1))
    wrong = alike("other", "cosine", "1", above(0.9), other).falsified()
    assert wrong.needs["compared"].identity == other.identity
    trains = leaves_plateau(study, "trains", "1", above(0.5), one_layer, "layers")
    assert trains.count_all_seeds and "layers gain more than half" in trains.statement


def test_an_experiment_with_other_fields_is_another_one():
    assert one_layer.but(steps=3).identity != one_layer.identity
    assert one_layer.but(steps=3).call(STUDY.values("small"), {}).steps == 3
    assert one_layer.given(rate=0.1).but(steps=3).name == "one-layer rate=0.1 steps=3"


def test_a_reference_may_be_another_training_and_there_may_be_several(tmp_path):
    study = Study(
        "references", title="R", citation="R", settings=STUDY.settings, small={"steps": 20}
    )
    references = {"step": best_preconditioner, "itself": one_layer}
    both = compared_with_each.given(trained=one_layer, references=references)
    alone = compared.given(trained=one_layer, reference=one_layer)
    for name, quantity, node in (("one", "", alone), ("several", "itself_", both)):
        itself = Alike(study, node, "a layer", "itself", name=quantity, count_all_seeds=True)
        itself(name, "risk", "1", within(1e-6), fails=node)
    report = Session(tmp_path / "store", say=Said()).reproduce(study, budget="small", seeds=2)
    assert [v.judgement.outcome for v in report.verdicts] == ["PASS", "PASS"]


def test_nodes_with_the_same_arguments_are_one():
    assert one_layer.given(rate=1.0).identity == one_layer.given(rate=1.0).identity
    assert one_layer.given(rate=1.0).identity != one_layer.identity
    with pytest.raises(InputError, match="rate"):
        one_layer.given(rat=1.0)
    with pytest.raises(InputError, match="needs a default"):
        _ = measurement(lambda lab, x: x).arguments


def test_the_identity_of_a_partial_function_has_names_and_no_addresses():
    def outer(inner, factor, then=None):
        return inner

    for call in (functools.partial(outer, len, 2.0), functools.partial(outer, then=len)):
        identity = one_layer.given(rate=call).identity
        assert "outer" in identity and "builtins.len" in identity and "0x" not in identity
    plain = one_layer.given(rate=functools.partial(outer, 1.0, "W_Q", then={"a": 1})).identity
    assert "(1.0, 'W_Q'){'then': {'a': 1}}" in plain


def test_an_unknown_setting_is_named_with_those_that_are_like_it():
    values = Values(noise=0.5, steps=100)
    assert values.noise == 0.5 and not hasattr(values, "nois")
    with pytest.raises(InputError, match="no setting of the study 'nois'; did you mean noise"):
        _ = values.nois


TYPO = GOOD.replace("(lab)", "(lab, t=trained)")
TYPO = f"""from mesalens.atlas import Experiment
@STUDY.experiment
def trained(s):
    return Experiment(task={{"dim": 2}}, steps=2, model={{"init_scal": 0.1}})

{TYPO}"""


def test_a_setting_of_a_model_that_there_is_not_is_named_with_its_experiment(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(CLAIM.format(TYPO))
    session = Session(tmp_path / "store")
    words = r"own\.py:6: the experiment trained: model: .*init_scal.*"
    with pytest.raises(InputError, match=words):
        session.reproduce(str(file), budget="full")


def test_what_to_do_about_claims_that_are_not_of_the_headline(tmp_path):
    file, session = tmp_path / "own.py", Session(tmp_path / "store")
    file.write_text(CLAIM.format(GOOD))
    with pytest.raises(InputError, match=r"no headline claims; give another budget: full\.$"):
        session.reproduce(str(file))
    (tmp_path / "alone.py").write_text(CLAIM.format(GOOD).replace(", full={}", ""))
    with pytest.raises(InputError, match=r"no headline claims; mark a claim with headline=True\.$"):
        session.reproduce(str(tmp_path / "alone.py"))
    (tmp_path / "empty.py").write_text(CLAIM.format(""))
    with pytest.raises(InputError, match=r"own has no claims\.$"):
        session.reproduce(str(tmp_path / "empty.py"))


def test_a_module_that_names_no_file_is_not_one_of_a_study(tmp_path, monkeypatch):
    """`torch.classes.__file__` is a name without a folder, which is then looked for beside a study."""
    study = tmp_path / "study_beside.py"
    study.write_text(FILE.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "names_no_file", types.SimpleNamespace(__file__="_classes.py"))
    assert code_digest(find(str(study))[0])
