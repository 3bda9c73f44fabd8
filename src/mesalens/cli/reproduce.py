"""`mesalens reproduce`."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import pydantic

from mesalens.atlas import Report, Session
from mesalens.atlas.verdicts import lines
from mesalens.checks import InputError
from mesalens.cli.interruption import StoppedError, stoppable
from mesalens.cli.options import POSITIONAL, WORDS, Command, Folder, pairs
from mesalens.cli.output import console, print_json
from mesalens.files import require_new
from mesalens.progress import ProgressReport
from mesalens.studies import HEADLINE, find

NONE: dict[str, Any] = {}


class Reproduce(Command):
    """Checks the claims of studies, and leaves a page with verdicts and figures.

    Results are kept in a store: what is there is taken, and only what is missing is computed.
    """

    names: Annotated[tuple[str, ...], POSITIONAL, WORDS] = HEADLINE
    """studies, as ahn-2023 or PATH/file.py; or STUDY/PART, or STUDY/CLAIM"""
    budget: str = "quick"
    """quick (the headline), full (every claim) or paper (the paper's own settings)"""
    seeds: int | None = None
    """seeds of each training, in place of the budget's looks"""
    seed: int = 0
    """where all random numbers come from"""
    set_: Annotated[dict[str, Any], pydantic.BeforeValidator(pairs), WORDS] = NONE
    """settings of the study with other values, as dim=20 context_length=10"""
    out: Folder | None = None
    """a new folder for the page and its files (results/STUDY-BUDGET-TIME by default)"""
    store: Folder | None = None
    """the folder of kept results (in the user's cache by default)"""
    fresh: bool = False
    """compute everything anew, whatever is kept"""
    falsify: bool = False
    """carry out each claim where it is false: all should fail"""
    cluster: str | None = None
    """a Dask cluster to compute on: local:4, tcp://host:8786, or a scheduler file"""
    device: str | None = None
    """where to compute: cpu, gpu, … (JAX's choice by default)"""

    def __call__(self) -> int:
        """Carries out the studies; 1 if a claim failed."""
        matplotlib.use("agg")  # figures go to files; there may be no display
        for name in self.names:  # what is wrong is said before anything is computed
            study, part = find(name)
            study.values(self.budget)
            study.select([part], self.budget)
        out = self.out or Path("results") / self._default_name()
        require_new(out)
        options: Any = {"budget": self.budget, "seeds": self.seeds, "settings": self.set_}
        options["falsify"] = self.falsify
        try:
            with (
                stoppable() as check,
                ProgressReport(check) as progress,
                Session(
                    self.store,
                    seed=self.seed,
                    fresh=self.fresh,
                    say=progress.say,
                    report=progress.work,
                    check=check,
                    cluster=self.cluster,
                ) as session,
            ):
                report = session.reproduce(*self.names, **options)
        except StoppedError as stop:
            print(
                "mesalens: interrupted; what was finished is kept, and the same command goes on.",
                file=sys.stderr,
            )
            return stop.exit_code
        try:
            report.save(out)
        except InputError as error:
            raise InputError(
                f"{error} All results are in the store, for the same command."
            ) from None
        self._say(report, out)
        return int(any(v.judgement.outcome == "FAIL" for v in report.verdicts))

    def _default_name(self) -> str:
        names = "-".join(Path(name).stem if ".py" in name else name for name in self.names)
        return f"{names.replace('/', '-')}-{self.budget}-{datetime.now(UTC):%Y%m%d-%H%M%S}"

    def _say(self, report: Report, out: Path) -> None:
        content = report.content()
        if self.json_:
            print_json(content | {"out": str(out)})
            return
        print("\n".join(lines(content, console().width)))
        taken = sum(verdict.taken for verdict in report.verdicts)
        if taken:
            print(
                f"{taken} of {len(report.verdicts)} verdicts from kept results; --fresh computes."
            )
        print(f"{report.tally()}, in {report.seconds:.0f} s. The page: {out / 'index.html'}")
