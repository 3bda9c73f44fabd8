"""`Session`: what studies are carried out in: store, cores, progress and seed."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mesalens import random
from mesalens.atlas.criterion import Judgement
from mesalens.atlas.examination import Examination
from mesalens.atlas.report import Report
from mesalens.atlas.study import Study
from mesalens.checks import InputError, count
from mesalens.execution import Cores, Execution, Job, State, connected
from mesalens.store import Store


class Session:
    """Carries out studies: takes results from a store, and computes what is missing.

        with Session(cluster="local:4") as session:
            report = session.reproduce("ahn-2023", budget="full")

    Args:
        store: A folder, or None for the user's cache folder. If one is given together with a
            cluster, all workers have to see it.
        seed: Where all random numbers come from.
        fresh: Whether to compute everything anew; results are kept all the same.
        say: Called with a line on anything important.
        report: Called now and then with the `State` of the work.
        check: Called now and then; it may raise an exception to stop the work, which loses
            nothing: finished results and the states of trainings are kept.
        workers: How many jobs go at once, by default one for each core.
        cluster: Where to compute, if not on the cores of this machine: a `dask.distributed.Client`,
            `local:N`, an address of a scheduler, or its file. What is started for it ends with
            the `with` block, or `close`.

    Raises:
        ValueError: if the store cannot be used, or the cluster does not answer.
    """

    def __init__(
        self,
        store: Path | str | None = None,
        *,
        seed: int = 0,
        fresh: bool = False,
        say: Callable[[str], object] = lambda line: print(line, file=sys.stderr),
        report: Callable[[State], object] = lambda state: None,
        check: Callable[[], object] = lambda: None,
        workers: int | None = None,
        cluster: Any = None,
    ):
        self.store = Store(None if store is None else Path(store), say)
        self.seed, self.fresh, self.say = seed, fresh, say
        self.key = random.key(seed)  # says what is wrong with a seed before anything is computed
        self.report, self.check = report, check
        self._open = ExitStack()
        if cluster is None:
            given: Any = {} if workers is None else {"workers": count("workers", workers)}
            self.execution: Execution = Cores(say=say, **given)
        else:
            connection = connected(cluster, say=say, shared=store is not None)
            self.execution = self._open.enter_context(connection)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what was started for a cluster, and nothing else."""
        self._open.close()

    def reproduce(
        self,
        *names: str | Study,
        budget: str = "quick",
        seeds: int | None = None,
        settings: Mapping[str, Any] | None = None,
        falsify: bool = False,
    ) -> Report:
        """Carries out studies, parts of them, or single claims, and judges the claims.

        Args:
            *names: A `Study`, its name, or NAME/PART or NAME/CLAIM; a study in a file of one's own
                is named PATH/file.py.
            budget: "quick" (the headline), "full" or "paper".
            seeds: The number of seeds, in place of the budget's looks.
            settings: Settings of the studies with other values.
            falsify: Whether to carry out the claims that have a `must_fail_on`, and each where it
                is false: all should fail.

        Raises:
            ValueError: for unknown names, settings or budgets.
        """
        from mesalens.studies import find  # studies import this room

        if seeds is not None:
            count("seeds", seeds)
        started, clock = datetime.now(UTC), time.monotonic()
        asked: dict[Study, list[str | None]] = {}
        for name in names:
            study, part = (name, None) if isinstance(name, Study) else find(name)
            if not study.select([part], budget):
                raise InputError(f"{study.name} has no headline; give another budget, as full.")
            asked.setdefault(study, []).append(part)
        carried = [
            Examination(self, study, parts, budget, seeds, settings or {}, falsify)
            for study, parts in asked.items()
        ]
        first = [job for each in carried for job in each.first()]

        def then(job: Job) -> Iterable[Job]:
            return [new for each in carried for new in each.then(job)]

        self.execution.run(first, then=then, check=self.check, report=self.report)
        words = [name.name if isinstance(name, Study) else str(name) for name in names]
        return Report(
            [each.report() for each in carried],
            words,
            budget,
            self.seed,
            seeds,
            dict(settings or {}),
            started,
            time.monotonic() - clock,
            falsify,
        )

    def kept_verdicts(self, study: Study) -> dict[str, tuple[str, Judgement]]:
        """The claims of a study whose evidence is in the store: the budget, and the judgement.

        Of several budgets the largest counts.
        """
        found: dict[str, tuple[str, Judgement]] = {}
        for budget in study.budgets:
            carried = Examination(self, study, [None], budget, None, {})
            for claim in carried.claims:
                if judged := carried.kept(claim):
                    found[claim.claim.name] = budget, judged
        return found
