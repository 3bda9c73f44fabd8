"""`Examination`: checks a study with the settings of a budget, in a session."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import xarray as xr

from mesalens.atlas.criterion import Evidence, Judgement, spending
from mesalens.atlas.experiment import Experiment
from mesalens.atlas.report import StudyReport, Verdict
from mesalens.atlas.results import code_digest, load, over_seeds
from mesalens.atlas.study import Claim, ExperimentNode, Node, Part, Study, all_nodes
from mesalens.atlas.units import Units, make_units
from mesalens.atlas.work import SECOND, Kept, Made, compute, files_of, keep_files, leaves, train
from mesalens.checks import InputError
from mesalens.environment import NUMBERS, environment
from mesalens.execution.jobs import BusyError, Job, Unit
from mesalens.store import Entry, digest

if TYPE_CHECKING:
    from mesalens.atlas.session import Session


@dataclass
class Judged:
    """A claim that is being judged: its looks, the jobs of its seeds, and its judgement."""

    part: Part
    claim: Claim
    looks: Sequence[int]
    look: int = 0
    jobs: dict[int, Job] = field(default_factory=dict)
    judgement: Judgement | None = None


class Examination:
    """Checks a study with the settings of a budget, in a session."""

    def __init__(
        self,
        session: "Session",
        study: Study,
        names: Sequence[str | None],
        budget: str,
        seeds: int | None,
        changes: Mapping[str, Any],
        falsify: bool = False,
    ):
        self.session, self.study, self.budget = session, study, budget
        self.falsify = falsify
        self.changes = {name: value for name, value in changes.items() if name in study.settings}
        if unknown := [name for name in changes if name not in study.settings]:
            study.values(budget, {unknown[0]: changes[unknown[0]]})  # raises; suggests names
        self.values = study.values(budget, self.changes)
        self.jobs: dict[tuple[str, int | None], Job] = {}
        self.units: dict[str, Units] = {}
        self.entries: dict[Job, tuple[Entry, bool, float]] = {}
        self._made: dict[str, Any] = {}
        self._compiled: dict[tuple[str, int], Job] = {}
        self.selected = study.select(names, budget)
        self.claims = [
            Judged(
                part,
                claim.falsified() if falsify else claim,
                (seeds,) if seeds else _looks(self.values[part.looks]),
            )
            for part, claims in self.selected
            for claim in claims
            if not falsify or claim.must_fail_on is not None
        ]
        self.left_out = tuple(
            claim.name
            for _, claims in self.selected
            for claim in claims
            if falsify and claim.must_fail_on is None
        )
        if falsify and not self.claims:
            raise InputError(f"none of these claims of {study.name} has a must_fail_on.")
        self.drawn: dict[str, Job] = {}
        self._known = session.store.addresses()
        known = environment()
        settings = {n: v for n, v in self.values.items() if not n.endswith("seeds")}
        self._made_with = [{n: known[n] for n in NUMBERS}, settings, code_digest(study)]

    # The jobs

    def first(self) -> list[Job]:
        """The jobs of the first looks of all claims."""
        return [job for claim in self.claims for job in self._look(claim)]

    def then(self, job: Job) -> list[Job]:
        """The jobs that follow a finished one: more seeds, or figures if all claims are judged."""
        more: list[Job] = []
        waiting = [claim for claim in self.claims if claim.judgement is None]
        for claim in waiting:
            if job in claim.jobs.values() and all(each.done for each in claim.jobs.values()):
                more += self._judge(claim)
        if waiting and all(claim.judgement is not None for claim in self.claims):
            more += [] if self.falsify else self._draw()
        return more

    def _look(self, claim: Judged) -> list[Job]:
        claim.jobs = {seed: self.job(claim.claim, seed) for seed in range(claim.looks[claim.look])}
        return list(claim.jobs.values())

    def kept(self, claim: Judged) -> Judgement | None:
        """The judgement of a claim, if all of its evidence is stored."""
        judged, store = None, self.session.store
        for look in claim.looks:
            found = [store.find(self.name(claim.claim.identity, seed)) for seed in range(look)]
            if not all(found):
                break
            tables = [load(entry.folder) for entry in found if entry]
            judged = self._judged(claim, dict(enumerate(tables)))
            if judged.outcome != "INCONCLUSIVE":
                break
        return judged

    def _judged(self, claim: Judged, tables: Mapping[int, xr.Dataset]) -> Judgement:
        """The judgement, with the error that a look at this many seeds may spend."""
        table = over_seeds(tables)
        share = spending(claim.looks)[len(tables)]
        return claim.claim.criterion.judge(Evidence(table["value"], table["counted"]), share)

    def _judge(self, claim: Judged) -> list[Job]:
        judged = self._judged(claim, self._read(claim.jobs))
        if judged.outcome == "INCONCLUSIVE" and claim.look + 1 < len(claim.looks):
            claim.look += 1
            return self._look(claim)
        claim.judgement = judged
        return []

    def _read(self, jobs: Mapping[int, Job]) -> dict[int, xr.Dataset]:
        """The results of the jobs of seeds."""
        return {seed: job.result.value(self.session.store) for seed, job in jobs.items()}

    def job(self, node: Node, seed: int | None, runs: int = 0) -> Job:
        """The job of a measurement, claim, figure or remark; of `runs` seeds if seed is None."""
        place = node.identity, seed
        if place in self.jobs:
            return self.jobs[place]
        name = self.name(node.identity, seed, runs)
        taken = None if self.session.fresh else self.session.store.find(name)
        words = node.name if seed is None else f"{node.name}, seed {seed}"
        if taken is not None:
            job = self._taken(words, taken, load)
        else:
            needs = self._needs(node, [seed] if seed is not None else list(range(runs)))
            flat = [job for jobs in needs.values() for job in _jobs(jobs)]
            if seed:  # seeds share programs, and the first one compiles them
                flat.append(self.job(node, 0))
            job = Job(
                words,
                lambda made: self._keep(job, name, made, load),
                flat,
                cost=0.3 * SECOND if seed else 4 * SECOND,  # the first one compiles
                unit=self._unit(node, seed, needs, name),
            )
        self.jobs[place] = job
        return job

    def _unit(self, node: Node, seed: int | None, needs: Mapping[str, Any], name: str) -> Unit:
        """A function of the study as a unit, which any machine can do once it has its needs."""
        store = self.session.store

        def kept() -> dict[str, list[Any]]:
            return {argument: [_result(job) for job in jobs] for argument, jobs in needs.items()}

        def arguments() -> tuple[Any, ...]:
            about = self.values, self.session.seed, name
            return self.study, node.identity, seed, kept(), *about

        return Unit(
            compute,
            arguments,
            store.folder,
            programs=node.identity,
            files=lambda: files_of(store, leaves(kept())),
            keep=lambda files: keep_files(store, files),
        )

    def _taken(self, words: str, entry: Entry, read: Any) -> Job:
        job = Job(words, lambda job: Kept(entry.address, read))
        self.entries[job] = entry, True, 0.0
        return job

    def _keep(self, job: Job, name: str, made: Made, read: Any) -> Kept:
        """Records what a unit has stored."""
        store = self.session.store
        entry = store.get(made.address)
        if entry is None:  # it was damaged, and is computed again
            self._known -= {made.address}
            raise BusyError
        store.name(name, made.address)
        self.entries[job] = entry, made.taken, made.seconds
        return Kept(made.address, read)

    def _needs(self, node: Node, seeds: list[int]) -> dict[str, list[Any]]:
        """The jobs that a node needs, by argument: for each seed one, or several by label."""
        return {
            name: [
                self.trainings(other, seed)
                if isinstance(other, ExperimentNode)
                else self.job(other, seed)
                for seed in seeds
            ]
            for name, other in node.needs.items()
        }

    def trainings(self, node: ExperimentNode, seed: int) -> Job | dict[Any, Job]:
        """The job of a training, or the jobs of several experiments by label."""
        made = self.made(node)
        if isinstance(made, Experiment):
            return self._training(node, None, made, seed)
        return {label: self._training(node, label, made, seed) for label in made}

    def made(self, node: ExperimentNode) -> Experiment | dict[Any, Experiment]:
        """What the function of an experiment returns for the settings."""
        if node.identity not in self._made:
            self._made[node.identity] = node.call(self.values, {})
        return self._made[node.identity]

    def _training(self, node: ExperimentNode, label: Any, made: Any, seed: int) -> Job:
        identity = f"{node.identity} {label or ''}"
        if (identity, seed) in self.jobs:
            return self.jobs[identity, seed]
        if identity not in self.units:
            self.units[identity] = make_units(
                self.study, node, label, made, self.values, self.session.seed
            )
        units, store, fresh = self.units[identity], self.session.store, self.session.fresh
        name = self.name(identity, seed)
        taken = None if fresh else store.find(name)
        words, read = f"{units.name}, seed {seed}", functools.partial(units.load, seed)
        if taken is not None:
            job = self._taken(words, taken, read)
        else:
            place = identity, seed if units.separate else 0
            if place not in self._compiled:

                def compile(job: Job) -> None:
                    units.compile(seed, self.session.say)

                self._compiled[place] = Job(
                    f"compiling {units.name}", compile, cost=units.cost + 8 * SECOND, prepares=True
                )
            unit = Unit(
                train,
                lambda: (units, seed, self.study.name, fresh, self._known),
                store.folder,
                programs=" ".join(map(str, place)),
                files=lambda: files_of(store, (), None if fresh else store.address(name)),
                keep=lambda files: keep_files(store, files, name),
            )
            job = Job(
                words,
                lambda made: self._keep(job, name, made, read),
                [self._compiled[place]],
                cost=units.cost,
                computes=True,
                unit=unit,
            )
        self.jobs[identity, seed] = job
        return job

    def name(self, identity: str, seed: int | None, runs: int = 0) -> str:
        """The name of a result in the store: a digest of everything that it depends on."""
        return digest([self._made_with, self.session.seed, seed, runs, identity])

    def _draw(self) -> list[Job]:
        """The jobs of those figures and remarks that need no further experiments.

        If not all claims of a part were asked for, they must need no further measurements either.
        """
        known = {i for claim in self.claims for i in claim.claim.closure}
        least: dict[str, int] = {}
        for claim in self.claims:
            for identity in claim.claim.closure:
                least[identity] = max(least.get(identity, 0), len(claim.jobs))
        jobs = []
        for part, claims in self.selected:
            for node in (*part.figures, *part.remarks):
                whole = len(claims) == len(part.claims)
                shown = set(node.shows) or {claim.name for claim in claims}
                others = [
                    other
                    for other in node.closure.values()
                    if other is not node and not (whole and not isinstance(other, ExperimentNode))
                ]
                if shown.isdisjoint(claim.name for claim in claims) or any(
                    other.identity not in known for other in others
                ):
                    continue
                seeds = [least[i] for i in node.closure if i in least]
                runs = min(seeds, default=_looks(self.values[part.looks])[0])
                self.drawn[node.identity] = self.job(node, None, runs)
                jobs.append(self.drawn[node.identity])
        return jobs

    # The report

    def report(self) -> StudyReport:
        """The verdicts, with figures, remarks and evidence."""
        nodes = {n.identity: n for n in all_nodes(claim.claim for claim in self.claims)}
        verdicts, store = [], self.session.store
        for claim in self.claims:
            assert claim.judgement is not None
            entries = [self.entries[job] for job in claim.jobs.values()]
            names = [n.name for n in claim.claim.closure.values() if isinstance(n, ExperimentNode)]
            made = max((entry.about["made"] for entry, _, _ in entries), default="")
            taken = all(taken for _, taken, _ in entries)
            seconds = sum(entry.about["seconds"] for entry, _, _ in entries)
            verdicts.append(
                Verdict(
                    claim.part,
                    claim.claim,
                    claim.judgement,
                    claim.look + 1,
                    list(claim.looks),
                    names,
                    taken,
                    made,
                    seconds,
                )
            )
        figures = [
            (part, node, job.result.value(store), self.entries[job][0].folder)
            for part, _ in self.selected
            for node in part.figures
            if (job := self.drawn.get(node.identity))
        ]
        remarks = [
            (part, self.drawn[node.identity].result.value(store))
            for part, _ in self.selected
            for node in part.remarks
            if node.identity in self.drawn
        ]
        return StudyReport(
            self.study,
            self.values,
            self.changes,
            verdicts,
            figures,
            remarks,
            self._unit_entries(nodes),
            self._tables(nodes),
            self.left_out,
        )

    def _unit_entries(self, nodes: Mapping[str, Node]) -> dict[str, dict[int, tuple[Entry, bool]]]:
        """The stored trainings on which the claims rest, by experiment and seed."""
        found: dict[str, dict[int, tuple[Entry, bool]]] = {}
        runs = max((len(claim.jobs) for claim in self.claims), default=0)
        for node in nodes.values():
            if not isinstance(node, ExperimentNode):
                continue
            made = self.made(node)
            labels = {None: made} if isinstance(made, Experiment) else made
            for label in labels:
                title = node.name if label is None else f"{node.name}, {label}"
                identity = f"{node.identity} {label or ''}"
                for seed in range(runs):
                    job = self.jobs.get((identity, seed))
                    if job is not None and job in self.entries:
                        found.setdefault(title, {})[seed] = self.entries[job][:2]
                    elif job is None and (entry := self._kept(identity, seed)):
                        found.setdefault(title, {})[seed] = entry, True
        return found

    def _kept(self, identity: str, seed: int) -> Entry | None:
        return self.session.store.find(self.name(identity, seed))

    def _tables(self, nodes: Mapping[str, Node]) -> dict[str, xr.Dataset]:
        """The evidence of all claims, by name."""
        tables = {}
        for claim in self.claims:
            table = over_seeds(self._read(claim.jobs))
            table["value"].attrs = {"long_name": claim.claim.estimator, "units": "1"}
            table.attrs = {"claim": claim.claim.name, "statement": claim.claim.statement}
            tables[claim.claim.name] = table
        return tables


def _looks(setting: Any) -> tuple[int, ...]:
    looks = tuple(setting) if isinstance(setting, tuple | list) else (setting,)
    if any(a >= b for a, b in itertools.pairwise(looks)) or looks[0] < 1:
        raise InputError(f"seeds must be positive and increase from look to look; got {looks}.")
    return looks


def _jobs(jobs: Any) -> list[Job]:
    if isinstance(jobs, Job):
        return [jobs]
    each = jobs.values() if isinstance(jobs, Mapping) else jobs
    return [leaf for job in each for leaf in _jobs(job)]


def _result(jobs: Job | Mapping[Any, Job]) -> Any:
    if isinstance(jobs, Job):
        return jobs.result
    return {label: job.result for label, job in jobs.items()}
