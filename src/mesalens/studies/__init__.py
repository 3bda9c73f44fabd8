"""Published claims, each with a source, an estimator, a criterion and a verdict."""

from mesalens.checks import one_of
from mesalens.studies.criterion import Criterion as Criterion
from mesalens.studies.criterion import Evidence as Evidence
from mesalens.studies.criterion import Judgement as Judgement
from mesalens.studies.mahankali_2023 import STUDY as MAHANKALI_2023
from mesalens.studies.study import Claim as Claim
from mesalens.studies.study import Figure as Figure
from mesalens.studies.study import Findings as Findings
from mesalens.studies.study import Part as Part
from mesalens.studies.study import Study as Study
from mesalens.studies.study import Verdict as Verdict
from mesalens.studies.study import judge as judge
from mesalens.studies.von_oswald_2023 import STUDY as VON_OSWALD_2023

STUDIES = {study.name: study for study in (VON_OSWALD_2023, MAHANKALI_2023)}
"""All studies, by name."""


def study(name: str) -> Study:
    """The study with this name.

    Raises:
        InputError: for an unknown name; the error has the nearest ones.
    """
    return STUDIES[one_of("study", name, STUDIES)]
