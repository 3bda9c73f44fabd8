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
from mesalens.cli.output import console, print_json, without_false_world
from mesalens.files import require_new
from mesalens.progress import ProgressReport
from mesalens.studies import HEADLINE, find

NONE: dict[str, Any] = {}


class Reproduce(Command):
    """Checks the claims of papers, and writes a report with verdicts and figures.

      mesalens reproduce                                  headline claims of two papers
      mesalens reproduce ahn-2023 --budget full           every claim of a study
      mesalens reproduce ahn-2023/depth-gains             one claim
      mesalens reproduce my_study.py                      a study of your own

    Results are stored and reused; only missing ones are computed. The exit code is 1 if a claim
    fails; with --falsify, if one does not.
    """

    names: Annotated[tuple[str, ...], POSITIONAL, WORDS] = HEADLINE
    """names of studies (see `mesalens list`), files PATH/file.py, or STUDY/PART or STUDY/CLAIM"""
    budget: str = "quick"
    """how much to compute: quick (headline claims), full (every claim) or paper (the paper's own
    settings)"""
    seeds: int | None = None
    """number of seeds for each claim; by default seeds are added until a claim is decided"""
    seed: int = 0
    """seed of all random numbers"""
    set_: Annotated[dict[str, Any], pydantic.BeforeValidator(pairs), WORDS] = NONE
    """settings of the study to change: dim=20 context_length=10"""
    out: Folder | None = None
    """new folder for the report; by default results/STUDY-BUDGET-TIME, or
    results/STUDY-BUDGET-falsified-TIME with --falsify"""
    store: Folder | None = None
    """folder of stored results; by default in the user's cache folder"""
    fresh: bool = False
    """compute everything again, even if it is stored"""
    falsify: bool = False
    """check each claim in a setting where it is false: all verdicts should be FAIL, and the exit
    code is 0 if they are and 1 otherwise"""
    cluster: str | None = None
    """Dask cluster to compute on: local:4, tcp://host:8786 or a scheduler file"""
    device: str | None = None
    """device to compute on: cpu, gpu, …; by default JAX's choice"""

    def __call__(self) -> int:
        """Checks the claims; returns 1 if one failed, or did not where it is false."""
        matplotlib.use("agg")  # figures go to files; there may be no display
        for name in self.names:  # fail before anything is computed
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
                "mesalens: interrupted; finished results are stored, and the same command goes on.",
                file=sys.stderr,
            )
            return stop.exit_code
        try:
            report.save(out)
        except InputError as error:
            raise InputError(
                f"{error} All results are stored; the same command will reuse them."
            ) from None
        self._say(report, out)
        return int(not report.as_expected)

    def _default_name(self) -> str:
        found = [find(name) for name in self.names]
        words = [word for study, part in found for word in (study.name, part) if word]
        words += [self.budget, *["falsified"] * self.falsify, f"{datetime.now(UTC):%Y%m%d-%H%M%S}"]
        return "-".join(words).replace("/", "-")

    def _say(self, report: Report, out: Path) -> None:
        content = report.content()
        if self.json_:
            print_json(content | {"out": str(out)})
            return
        print("\n".join(lines(content, console().width)))
        if words := report.programs.words():
            print(f"{words[0].upper()}{words[1:]}.")
        taken = sum(verdict.taken for verdict in report.verdicts)
        if taken:
            count = f"{taken} of {len(report.verdicts)}"
            print(f"{count} verdicts are from stored results; --fresh computes them again.")
        unchecked = [v.claim.name for v in report.verdicts if v.claim.must_fail_on is None]
        if unchecked:
            print(without_false_world(unchecked))
        left_out = [name for study in report.studies for name in study.left_out]
        if left_out:
            print(f"Left out, as no world is declared in which it fails: {', '.join(left_out)}.")
        print(f"The page: {out / 'index.html'}")
        if report.falsified:
            print(report.falsification())
