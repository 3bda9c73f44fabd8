"""`Session`: checks the claims of studies, with a store of results."""

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
from mesalens.program_cache import counted
from mesalens.store import Store


class Session:
    """Checks the claims of studies: reuses stored results, and computes missing ones.

    It is a context manager, which ends what was started for a cluster.

    Args:
        store: The folder of stored results; by default in the user's cache folder. If it is given
            together with a cluster, all workers must have access to it.
        seed: The seed of all random numbers.
        fresh: Whether to compute everything again; the results are stored.
        say: Called with messages; by default prints them on standard error.
        report: Called regularly with the `mesalens.execution.State` of the work.
        check: Called regularly; it may raise an exception to stop the work. Finished results and
            the states of trainings are kept.
        workers: The number of jobs that run at once; by default one for each core.
        cluster: Where to compute; by default on the cores of this machine. A
            `dask.distributed.Client`, `local:N`, the address of a scheduler, or its file.

    Attributes:
        key: The random key of the seed.
        execution: Where jobs run.

    Raises:
        ValueError: if the store cannot be used, or the cluster does not answer.

    Examples:
        ```python
        with Session() as session:
            report = session.reproduce("ahn-2023", budget="full")
        report.save("results/ahn-2023")
        ```
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
        self.key = random.key(seed)  # rejects an invalid seed before anything is computed
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
        """Ends what was started for a cluster."""
        self._open.close()

    def reproduce(
        self,
        *names: str | Study,
        budget: str = "quick",
        seeds: int | None = None,
        settings: Mapping[str, Any] | None = None,
        falsify: bool = False,
    ) -> Report:
        """Checks claims: trains, measures and judges them.

        Args:
            *names: Studies, their names, or "STUDY/PART" or "STUDY/CLAIM"; the name of a study in a
                file of yours is "PATH/file.py".
            budget: "quick" (headline claims), "full" (every claim) or "paper" (the paper's own
                settings).
            seeds: The number of seeds for each claim; by default seeds are added until a claim is
                decided, in the looks of the study.
            settings: Other values for settings of the studies.
            falsify: Whether to check the claims that have a `must_fail_on`, each where it is false;
                all verdicts should be FAIL, and `Report.falsification` says whether they are.

        Returns:
            The report, with verdicts, figures and evidence.

        Raises:
            ValueError: if names, settings or the budget are unknown.
        """
        from mesalens.studies import find  # studies import this module

        if seeds is not None:
            count("seeds", seeds)
        started, clock = datetime.now(UTC), time.monotonic()
        asked: dict[Study, list[str | None]] = {}
        for name in names:
            study, part = (name, None) if isinstance(name, Study) else find(name)
            if not study.select([part], budget):
                raise InputError(_nothing_to_check(study, part))
            asked.setdefault(study, []).append(part)
        with counted() as programs:
            carried = [
                Examination(self, study, parts, budget, seeds, settings or {}, falsify)
                for study, parts in asked.items()
            ]
            first = [job for each in carried for job in each.first()]

            def then(job: Job) -> Iterable[Job]:
                return [new for each in carried for new in each.then(job)]

            self.execution.run(first, then=then, check=self.check, report=self.report)
            reports = [each.report() for each in carried]
        words = [name.name if isinstance(name, Study) else str(name) for name in names]
        return Report(
            reports,
            words,
            budget,
            self.seed,
            seeds,
            dict(settings or {}),
            started,
            time.monotonic() - clock,
            falsify,
            programs,
        )

    def kept_verdicts(self, study: Study) -> dict[str, tuple[str, Judgement]]:
        """The stored verdicts of a study, by claim: the budget and the judgement.

        If the evidence is stored for several budgets, the last of them is used.

        Args:
            study: The study.
        """
        found: dict[str, tuple[str, Judgement]] = {}
        for budget in study.budgets:
            carried = Examination(self, study, [None], budget, None, {})
            for claim in carried.claims:
                if judged := carried.kept(claim):
                    found[claim.claim.name] = budget, judged
        return found


def _nothing_to_check(study: Study, part: str | None) -> str:
    """Why no claim was chosen, and what to do."""
    if part or not study.claims:
        return f"{study.name}{f'/{part}' * bool(part)} has no claims."
    others = [budget for budget in study.budgets if budget != "quick"]
    way = (
        f"give another budget: {' or '.join(others)}"
        if others
        else "mark a claim with headline=True"
    )
    return f"{study.name} has no headline claims; {way}."
