"""`Report`: the verdicts of studies, and the folder with its page."""

import json
import shlex
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import xarray as xr
from pydantic_core import to_jsonable_python

from mesalens import __version__, user_files
from mesalens._citation import study_reference
from mesalens.atlas import verdicts
from mesalens.atlas.criterion import Judgement
from mesalens.atlas.study import Claim, FigureNode, Part, Study, Values
from mesalens.checks import InputError, one_of
from mesalens.display import Described, Summary
from mesalens.environment import commit, environment
from mesalens.files import new_folder
from mesalens.manifest import read_manifest, verify, write_manifest
from mesalens.program_cache import Programs
from mesalens.storage import load_dataset, save_dataset
from mesalens.store import Entry


@dataclass(frozen=True, repr=False)
class Verdict(Described):
    """A claim, its judgement, and how it was decided.

    Attributes:
        part: The part of the study.
        claim: The claim.
        judgement: The outcome, with value and interval.
        look: The look at which it was decided, from 1.
        looks: The number of seeds of each look.
        experiments: The names of the experiments that it is about.
        taken: Whether all evidence was stored before.
        made: When the last of the evidence was computed, in ISO 8601.
        seconds: How long computing the evidence took.
    """

    part: Part
    claim: Claim
    judgement: Judgement
    look: int
    looks: list[int]
    experiments: list[str]
    taken: bool
    made: str
    seconds: float

    @property
    def outcome(self) -> str:
        """PASS, FAIL or INCONCLUSIVE."""
        return self.judgement.outcome

    def _summary(self) -> Summary:
        judged = self.judgement._summary()
        rows = {"statement": self.claim.statement, "place": self.claim.place}
        rows |= {"measured": self.claim.estimator, "criterion": self.claim.criterion.words}
        return Summary(f"{self.claim.name}: {judged.title}", rows | dict(judged.rows))


@dataclass(frozen=True, repr=False)
class StudyReport(Described):
    """The verdicts of a study, with figures, remarks, trainings and evidence.

    Attributes:
        study: The study.
        values: Its settings.
        changes: The settings that were changed.
        verdicts: The verdicts, in order of the claims.
        figures: For each figure its part, function and caption, and the folder with its files.
        remarks: For each remark its part and the sentence.
        units: For each experiment and seed the entry in the store, and whether it was there before.
        tables: The evidence of each claim: `value` and `counted`, over seeds and settings.
        left_out: Claims that were asked for but could not be checked where they are false, as they
            have no `must_fail_on`.
    """

    study: Study
    values: Values
    changes: Mapping[str, Any]
    verdicts: list[Verdict]
    figures: list[tuple[Part, FigureNode, str, Path]]
    remarks: list[tuple[Part, str]]
    units: Mapping[str, Mapping[int, tuple[Entry, bool]]]
    tables: Mapping[str, xr.Dataset]
    left_out: tuple[str, ...] = ()

    def _summary(self) -> Summary:
        outcomes = verdicts.tally({"outcome": each.judgement.outcome} for each in self.verdicts)
        return Summary(f"{self.study.name}: {outcomes}", *_table(map(_plain, self.verdicts)))


@dataclass(frozen=True, repr=False)
class Report(Described):
    """The result of `Session.reproduce`: verdicts, figures and evidence.

    `report["claim-name"]` is the `Verdict` of a claim.

    Attributes:
        studies: The report on each study.
        names: What was asked for: names of studies, parts or claims.
        budget: The budget.
        seed: The seed of all random numbers.
        seeds: The number of seeds, if it was given.
        settings: Settings that were changed.
        started: When the work began.
        seconds: How long it took.
        falsified: Whether claims were checked where they are false.
        programs: How many programs were compiled for it, and how long that took.
    """

    studies: list[StudyReport]
    names: list[str]
    budget: str
    seed: int
    seeds: int | None
    settings: Mapping[str, Any]
    started: datetime
    seconds: float
    falsified: bool = False
    programs: Programs = field(default_factory=Programs)

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts, in order."""
        return [verdict for study in self.studies for verdict in study.verdicts]

    @property
    def references(self) -> tuple[str, ...]:
        """What `mesalens.citation` cites of it: the papers of its studies."""
        return tuple(name for each in self.studies for name in each.study.references)

    def __getitem__(self, claim: str) -> Verdict:
        """The verdict of a claim, by name."""
        verdicts = {verdict.claim.name: verdict for verdict in self.verdicts}
        return verdicts[one_of("claim", claim, verdicts)]

    def _summary(self) -> Summary:
        where = ", each where it is false" if self.falsified else ""
        title = f"{', '.join(self.names)}: {self.tally()}{where}"
        return Summary(title, *_table(map(_plain, self.verdicts)))

    def tally(self) -> str:
        """The number of claims with each outcome: "3 claims: 2 PASS, 1 FAIL"."""
        return verdicts.tally({"outcome": each.judgement.outcome} for each in self.verdicts)

    @property
    def as_expected(self) -> bool:
        """Whether no claim fails; or, if they were checked where they are false, all do."""
        fails = [verdict.outcome == "FAIL" for verdict in self.verdicts]
        return all(fails) if self.falsified else not any(fails)

    def falsification(self) -> str:
        """Whether all claims fail where they are false, in a sentence.

        Returns:
            The sentence, which names those that do not; "" if claims were not checked there.
        """
        if not self.falsified:
            return ""
        return verdicts.falsification(map(_plain, self.verdicts))

    def command(self) -> str:
        """The command that repeats the work."""
        return self._command(self.names)

    def _command(self, names: Iterable[str]) -> str:
        words = ["mesalens reproduce", *map(shlex.quote, names)]
        words += [f"--budget {self.budget} --seed {self.seed}"]
        words += [] if self.seeds is None else [f"--seeds {self.seeds}"]
        words += ["--falsify"] if self.falsified else []
        if self.settings:
            pairs = (f"{name}={value}".replace(" ", "") for name, value in self.settings.items())
            words.append("--set " + shlex.join(pairs))
        return " ".join(words)

    def _in_folder(self, name: str) -> str:
        """A name with the report's copy of the study's file in place of the user's file."""
        from mesalens.studies import split  # studies import this module

        head, part = split(name)
        for each in self.studies:
            copy, file = _copy(each.study), each.study.file
            if copy and (head == each.study.name or Path(head).resolve() == file.resolve()):
                return "/".join(filter(None, (copy, part)))
        return name

    def content(self) -> dict[str, Any]:
        """The content of `verdicts.json`: everything except figures and weights.

        Its schema is in docs/pages/guides/verdicts-schema.md.

        Infinite numbers and NaN, which JSON does not have, are None.
        """
        content = {
            "schema": verdicts.SCHEMA,
            "mesalens": __version__,
            "commit": commit(),
            "made": self.started.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 1),
            "programs": asdict(self.programs) | {"seconds": round(self.programs.seconds, 1)},
            "command": self._command(map(self._in_folder, self.names)),
            "names": self.names,
            "budget": self.budget,
            "seed": self.seed,
            "falsified": self.falsified,
            "environment": environment(),
            "studies": [_study(study) for study in self.studies],
        }
        return to_jsonable_python(content, inf_nan_mode="null", fallback=str)

    def save(self, folder: Path | str) -> None:
        """Saves the report; `mesalens.load` reads it.

        Writes the page `index.html`, `verdicts.json`, the figures (`figures/`), the evidence
        (`data/`), the weights and metrics of each seed of each experiment (`units/`), and the files
        of the user's studies (`study/`), with which the command on the page repeats it.

        Args:
            folder: A new folder.

        Raises:
            ValueError: if the folder cannot be written, or is not empty.
        """
        from mesalens.atlas.page import page

        content, images = self.content(), {}
        with new_folder(Path(folder)) as out:
            for study in self.studies:
                name = study.study.name
                if copy := _copy(study.study):
                    (out / copy).parent.mkdir(parents=True, exist_ok=True)
                    beside = user_files.files_beside(study.study.file)
                    sources = {**beside, study.study.file.name: study.study.source or b""}
                    for file, source in sources.items():
                        (out / copy).with_name(file).write_bytes(source)
                for _, node, _, files in study.figures:
                    target = out / "figures" / name
                    target.mkdir(parents=True, exist_ok=True)
                    for ending in ("png", "pdf"):
                        shutil.copy(files / f"figure.{ending}", target / f"{node.name}.{ending}")
                    images[f"{name}/{node.name}"] = (files / "figure.png").read_bytes()
                for claim, table in study.tables.items():
                    (out / "data" / name).mkdir(parents=True, exist_ok=True)
                    save_dataset(table, out / "data" / name / f"{claim}.nc")
                for experiment, seeds in study.units.items():
                    for seed, (entry, _) in seeds.items():
                        place = out / "units" / name / experiment.replace("/", "-")
                        shutil.copytree(entry.folder, place / f"seed-{seed}")
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (out / "verdicts.json").write_text(text + "\n", encoding="utf-8")
            (out / "index.html").write_text(page(content, images), encoding="utf-8")
            write_manifest(out, "report", {"command": content["command"]})


def _copy(study: Study) -> str | None:
    """Where a report has its copy of a study's file, which keeps its name: keys depend on it."""
    return None if study.source is None else f"study/{study.name}/{study.file.name}"


def _plain(verdict: Verdict) -> dict[str, Any]:
    return to_jsonable_python(_claim(verdict, []), inf_nan_mode="null")


def _table(
    claims: Iterable[dict[str, Any]], **rows: str
) -> tuple[dict[str, str], tuple[str, ...], list[list[str]]]:
    """The rows of a summary, and its table of claims with verdicts."""
    head = ("verdict", "claim", "value", "interval", "criterion", "seeds", "setting")
    return rows, head, [verdicts.cells(claim) for claim in claims]


def _study(report: StudyReport) -> dict[str, Any]:
    parts = list({id(v.part): v.part for v in report.verdicts}.values())
    return {
        "study": report.study.name,
        "title": report.study.title,
        "citation": report.study.citation,
        "note": report.study.note,
        "system": report.study.system,
        "unchecked": report.study.unchecked,
        "own": report.study.own,
        "file": _copy(report.study),
        "settings": dict(report.values),
        "changed": dict(report.changes),
        "parts": [_part(report, part) for part in parts],
        "experiments": [_experiment(name, seeds) for name, seeds in report.units.items()],
    }


def _part(report: StudyReport, part: Part) -> dict[str, Any]:
    figures = [(node, caption) for p, node, caption, _ in report.figures if p is part]
    claims = [verdict for verdict in report.verdicts if verdict.part is part]

    def shown(node: FigureNode) -> list[str]:
        return [v.claim.name for v in claims if not node.shows or v.claim.name in node.shows]

    return {
        "part": part.name,
        "title": part.title,
        "claims": [
            _claim(v, [node.name for node, _ in figures if v.claim.name in shown(node)])
            for v in claims
        ],
        "figures": [
            {"figure": node.name, "caption": caption, "shows": shown(node)}
            for node, caption in figures
        ],
        "remarks": [remark for p, remark in report.remarks if p is part],
    }


def _claim(verdict: Verdict, figures: list[str]) -> dict[str, Any]:
    claim, judged = verdict.claim, verdict.judgement
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "estimator": claim.estimator,
        "place": claim.place,
        "criterion": claim.criterion.words,
        "bounds": [claim.criterion.low, claim.criterion.high],
        "universal": claim.criterion.universal,
        "outcome": judged.outcome,
        "value": judged.value,
        "interval": [judged.low, judged.high],
        "level": judged.level,
        "seeds": judged.seeds,
        "seeds_run": judged.seeds_run,
        "look": verdict.look,
        "looks": verdict.looks,
        "where": judged.where,
        "values": {str(seed): value for seed, value in judged.values.items()},
        "why": judged.why,
        "seeds_to_decide": judged.seeds_to_decide,
        "figures": figures,
        "experiments": verdict.experiments,
        "taken": verdict.taken,
        "made": verdict.made,
        "seconds": round(verdict.seconds, 1),
    }


def _experiment(name: str, seeds: Mapping[int, tuple[Entry, bool]]) -> dict[str, Any]:
    entries = list(seeds.values())
    units = [
        {
            "seed": seed,
            "address": entry.address,
            **{key: entry.about[key] for key in ("ending", "steps_taken", "made", "seconds")},
            "taken": taken,
        }
        for seed, (entry, taken) in seeds.items()
    ]
    endings = [unit["ending"] for unit in units]
    words = ", ".join(f"{endings.count(e)} of {len(units)}: {e}" for e in dict.fromkeys(endings))
    return {
        "experiment": name,
        "settings": entries[0][0].about["settings"],
        "seeds": list(seeds),
        "words": words,
        "units": units,
    }


@dataclass(frozen=True, repr=False)
class SavedReport(Described):
    """A report that was read from its folder.

    Attributes:
        folder: The folder.
        content: The content of `verdicts.json`.
    """

    folder: Path
    content: Mapping[str, Any]

    def _summary(self) -> Summary:
        where = ", each where it is false" if self.content.get("falsified") else ""
        title = f"{self.folder}: {verdicts.tally(self.claims.values())}{where}"
        return Summary(title, *_table(self.claims.values(), command=self.content["command"]))

    @property
    def references(self) -> tuple[str, ...]:
        """What `mesalens.citation` cites of it: the papers of its studies."""
        return tuple(map(study_reference, self.content["studies"]))

    @property
    def claims(self) -> dict[str, Any]:
        """The entries of all claims in `verdicts.json`, by name."""
        parts = [part for study in self.content["studies"] for part in study["parts"]]
        return {claim["claim"]: claim for part in parts for claim in part["claims"]}

    def evidence(self, claim: str) -> xr.Dataset:
        """The evidence of a claim: `value` and `counted`, over seeds and settings.

        Args:
            claim: The name of the claim.

        Raises:
            ValueError: if there is no such claim, or its file is damaged.
        """
        one_of("claim", claim, self.claims)
        (file,) = (self.folder / "data").glob(f"*/{claim}.nc")
        return load_dataset(file)

    def trained(self, experiment: str, seed: int = 0) -> Any:
        """One trained seed of an experiment, with learner and metrics, as a `Trained`.

        The file of a user's study is run, from the copy in the report: load reports that you trust.

        Args:
            experiment: The name of the experiment.
            seed: The number of the seed.

        Raises:
            ValueError: if there is no such experiment or seed, or a file is damaged.
        """
        from mesalens import studies
        from mesalens.atlas.units import units_of

        for about in self.content["studies"]:
            study = studies.study(self._declared(about))
            values = study.values(self.content["budget"], about["changed"])
            units = units_of(study, values, self.content["seed"])
            known = {e["experiment"]: e["seeds"] for e in about["experiments"]}
            if experiment in known:
                one_of("seed", str(seed), list(map(str, known[experiment])))
                place = f"{about['study']}/{experiment.replace('/', '-')}/seed-{seed}"
                return units[experiment].load(seed, self.folder / "units" / place)
        names = [e["experiment"] for about in self.content["studies"] for e in about["experiments"]]
        raise InputError(f"the report has no experiment {experiment!r}; it has {', '.join(names)}.")

    def _declared(self, about: Mapping[str, Any]) -> str:
        """The name of a study, or the file that declares it."""
        from mesalens import studies

        if about.get("file"):
            return str(self.folder / about["file"])
        # An older report has no copy of a user's file, only the place where it was
        heads = [studies.split(name)[0] for name in self.content["names"]]
        found = {studies.study(head).name: head for head in heads}
        return found[about["study"]]


def load_report(folder: Path | str) -> SavedReport:
    """The report in a folder, after a check of its files.

    Raises:
        ValueError: if it is not a report, or a file is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None or manifest["kind"] != "report":
        raise InputError(
            f"{folder} is not a report; give a folder that `mesalens reproduce` wrote."
        )
    verify(folder, manifest)
    return SavedReport(folder, verdicts.read(folder / "verdicts.json"))
