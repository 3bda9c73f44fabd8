"""Every claim that trains or constructs something fails where it is false."""

import pytest

from mesalens.atlas import Session
from mesalens.studies import STUDIES, study

CLAIMS = [
    (name, claim.name) for name in STUDIES for claim in study(name).claims if claim.must_fail_on
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The outcomes of all claims of a study where they are false, carried out once."""
    store, found = tmp_path_factory.mktemp("store") / "store", {}

    def report(name):
        if name not in found:
            session = Session(store, seed=1, say=lambda line: None)
            known = study(name).settings
            changes = {n: (4, 8, 16) for n in known if n.endswith("seeds")}
            # Large first weights give risks with heavy tails, which hundreds of seeds would decide
            small = {"copying_init_scale": 0.05, "sine_init_scale": 0.02}
            changes |= {n: value for n, value in small.items() if n in known}
            carried = session.reproduce(name, budget="small", settings=changes, falsify=True)
            found[name] = {v.claim.name: v.judgement for v in carried.verdicts}
        return found[name]

    return report


@pytest.mark.slow
@pytest.mark.parametrize(("name", "claim"), CLAIMS)
def test_a_claim_fails_in_a_world_where_it_is_false(reports, name, claim):
    judged = reports(name)[claim]
    assert judged.outcome == "FAIL", judged


@pytest.mark.parametrize("name", STUDIES)
def test_what_trains_or_constructs_has_such_a_world(name):
    for claim in study(name).claims:
        assert claim.must_fail_on or not claim.closure.keys() - {claim.identity}, claim.name
