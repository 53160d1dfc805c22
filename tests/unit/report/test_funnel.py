"""Sums of the funnel."""

from __future__ import annotations

import pytest
from report_campaign import Campaign

from sluice.errors import SluiceError
from sluice.report.draw_funnel import draw_funnel
from sluice.report.funnel import CANDIDATE_STEPS, FunnelRow, check_chain, number_of_batches, read_funnel


def row(step: str, **counts: int) -> FunnelRow:
    found = FunnelRow(step)
    found.counts.update({name.rstrip("_"): n for name, n in counts.items()})
    lost = found.counts["rejected"] + found.counts["failed"]
    found.reasons.update({"atoms too close": lost} if lost else {})
    return found


def test_sum_rule_is_checked():
    row("check_geometry", in_=10, out=7, rejected=2, failed=1).check()
    with pytest.raises(SluiceError, match=r"check_geometry.*in 10 .* is not out 7"):
        row("check_geometry", in_=10, out=7, rejected=2).check()


def test_merged_and_made_enter_the_sum():
    row("remove_duplicates", in_=10, merged=3, out=7).check()
    with pytest.raises(SluiceError, match="remove_duplicates"):
        row("remove_duplicates", in_=10, made=1, merged=3, out=7).check()


def test_reasons_must_cover_all_that_did_not_go_on():
    bad = row("check_charge", in_=3, out=1, rejected=2)
    bad.reasons.clear()
    with pytest.raises(SluiceError, match="check_charge: 0 reasons are given for 2"):
        bad.check()


def test_what_leaves_a_step_must_come_into_the_next():
    check_chain([row("check_geometry", in_=5, out=5), row("check_symmetry", in_=5, out=5)])
    with pytest.raises(SluiceError, match=r"check_symmetry: 4 candidates came in, but 5 left check_geometry"):
        check_chain([row("check_geometry", in_=5, out=5), row("check_symmetry", in_=4, out=4)])


def test_reasons_are_ordered_by_count_then_name():
    found = row("check_geometry", in_=9, out=0, rejected=4)
    found.reasons = type(found.reasons)({"b": 1, "a": 1, "c": 2})
    assert list(found.as_dict()["reasons"]) == ["c", "a", "b"]


def test_campaign_is_read_batch_by_batch(campaign: Campaign):
    funnel = read_funnel(campaign.config, campaign.folder)
    assert [number_of_batches(step, campaign.config) for step in CANDIDATE_STEPS[:5]] == [2, 2, 2, 2, 1]
    assert [r.counts for r in funnel.total()] == [r.counts for r in funnel.rounds[1]]
    assert [r.counts["out"] for r in funnel.database] == [80, 80, 80]


def test_picture_shows_every_number_and_escapes_reasons():
    rows = [row(step.name, in_=2000 - 100 * k, out=2000 - 100 * k) for k, step in enumerate(CANDIDATE_STEPS)]
    rows[1] = row(CANDIDATE_STEPS[1].name, in_=2000, out=1900, rejected=100)
    rows[1].reasons = type(rows[1].reasons)({"<i>close</i>": 100})
    rows[0].counts["made"] = 2500
    picture = draw_funnel(rows, confirmed=3)
    assert all(f">{2000 - 100 * k:,}<" in picture for k in range(len(rows)))
    assert ">2,500<" in picture
    assert ">3<" in picture and "&lt;i&gt;close" in picture and "<i>" not in picture


def test_reasons_that_would_not_fit_are_summed_up():
    step = row(CANDIDATE_STEPS[0].name, in_=60_000, out=0, rejected=60_000)
    step.reasons = type(step.reasons)({"not charge-neutral": 30_000, "metals only": 29_000, "electronegativity": 1_000})
    assert "30,000 not charge-neutral · 30,000 others<" in draw_funnel([step])
    step.reasons = type(step.reasons)({"metals only": 59_000, "empty": 1_000})
    assert "59,000 metals only · 1,000 empty<" in draw_funnel([step])


def test_picture_of_an_empty_campaign():
    picture = draw_funnel([row(step.name) for step in CANDIDATE_STEPS], confirmed=0)
    assert picture.count(">0<") == len(CANDIDATE_STEPS) + 2
