"""How the SLURM executor reads the queue and recognizes its jobs. Needs no SLURM."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from snakemake_executor_plugin_sluice import Executor, slurm_queue, watching
from snakemake_executor_plugin_sluice.identity import JobIdentity, campaign_name, identify
from snakemake_executor_plugin_sluice.settings import ExecutorSettings
from snakemake_executor_plugin_sluice.slurm_queue import (
    Fate,
    fate_of,
    parse_squeue,
    read_queue,
    repair_reason,
    stuck_reason,
)
from snakemake_executor_plugin_sluice.watching import Watched

PROFILE = Path(__file__).parents[2] / "profiles" / "slurm" / "config.yaml"


class Job:
    """The parts of Snakemake's job that make its identity."""

    def __init__(self, output="a.h5", seed=1, wildcards=("1", "2")):
        self.name = "relax_candidates"
        self.rule = SimpleNamespace(name=self.name, shellcmd="relax {input} {threads}")
        self.input, self.output, self.non_derived_params, self.wildcards = ["in.h5"], [output], [seed], wildcards

    def is_group(self):
        return False


@pytest.mark.parametrize(
    ("state", "reason", "fate"),
    [
        ("PENDING", "Priority", Fate.WAITS),
        ("PENDING", "Resources", Fate.WAITS),
        ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1", Fate.WAITS),
        ("PENDING", "Nodes required for job are DOWN, DRAINED or reserved", Fate.WAITS),
        ("PENDING", "JobHeldUser", Fate.STUCK),
        ("PENDING", "launch failed requeued held", Fate.STUCK),
        ("PENDING", "DependencyNeverSatisfied", Fate.STUCK),
        ("PENDING", "AssocGrpCPUMinutesLimit", Fate.WAITS),
        ("PENDING", "AssocMaxGRESPerJob", Fate.STUCK),
        ("PENDING", "QOSMaxCpuMinutesPerJobLimit", Fate.STUCK),
        ("RUNNING", "None", Fate.WAITS),
        ("COMPLETING", "None", Fate.WAITS),
        ("COMPLETED", "None", Fate.DONE),
        ("FAILED", "NonZeroExitCode", Fate.FAILED),
        ("CANCELLED by 1000", "None", Fate.FAILED),
        ("OUT_OF_MEMORY", "OutOfMemory", Fate.FAILED),
        ("TIMEOUT", "TimeLimit", Fate.FAILED),
        ("NODE_FAIL", "NodeDown", Fate.LOST),
        ("PREEMPTED", "None", Fate.LOST),
    ],
)
def test_every_state_has_a_meaning(state, reason, fate):
    assert fate_of(state, reason) is fate


def test_a_reason_is_told_in_words():
    assert "administrator" in stuck_reason("JobHeldAdmin")
    assert stuck_reason("BeginTime") is None
    assert "down" in repair_reason("ReqNodeNotAvail, UnavailableNodes:n1")
    assert repair_reason("Resources") is None
    assert repair_reason("AssocGrpCpuLimit") is None, "its other jobs end some day"
    for reason in ("AssocGrpCPUMinutesLimit", "AssocGrpBillingMinutes", "AssocGrpGRESMinutes"):
        assert "hours of your account are used up" in repair_reason(reason)
    assert "quality of service" in repair_reason("QOSGrpCPUMinutesLimit")


def test_a_job_that_only_the_accounting_still_runs_counts_as_lost(monkeypatch):
    watcher, said, lost = object.__new__(Executor), [], []
    watcher.settings = SimpleNamespace(hold_seconds=0.3)
    watcher.logger = SimpleNamespace(warning=said.append)
    monkeypatch.setattr(watcher, "_last_word", lambda _: None, raising=False)
    monkeypatch.setattr(watcher, "_submit_lost", lambda _, words: lost.append(words), raising=False)
    monkeypatch.setattr(watching, "outputs_newer", lambda *_: False)
    monkeypatch.setattr(slurm_queue, "ask_accounting", lambda _: ("RUNNING", "0:0"))
    watched = Watched(SimpleNamespace(external_jobid="7", job=None), SimpleNamespace(label="work_a"), 0.0)
    for _ in range(3):
        assert not watcher._settle_vanished(watched, ask=True)
    assert len(said) == 1 and "RUNNING in the accounting" in said[0]
    time.sleep(0.4)
    assert watcher._settle_vanished(watched, ask=True)
    assert len(lost) == 1 and "does not know it any more" in lost[0]


def test_squeue_rows_of_other_campaigns_are_passed_over():
    identity = identify(Job())
    text = (
        f"7|RUNNING|None|2026-11-21T01:00:00|2026-11-21T02:00:00|n1|halides-1|{identity.comment}\n"
        f"8|RUNNING|None|2026-11-21T01:00:00|N/A|n1|halides-2|{identity.comment}\n"
        "9|PENDING|Priority|2026-11-21T01:00:00|N/A||halides-1|somebody's | comment\n"
        "slurm_load_jobs error\n"
    )
    jobs = parse_squeue(text, "halides-1")
    assert set(jobs) == {"7", "9"}
    assert jobs["7"].identity == identity
    assert jobs["7"].ended - jobs["7"].submitted == 3600
    assert jobs["9"].identity is None and jobs["9"].ended is None


def test_what_a_user_has_set_for_squeue_hides_no_job(tmp_path, monkeypatch):
    squeue = tmp_path / "squeue"
    squeue.write_text(
        "#!/bin/sh\n"
        "time=${SLURM_TIME_FORMAT:-2026-11-21T01:00:00}\n"
        '[ -n "$SQUEUE_PARTITION" ] || echo "7|RUNNING|None|$time|N/A|n1|halides-1|c"\n'
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    jobs = read_queue("halides-1")
    assert set(jobs) == {"7"}
    assert jobs["7"].submitted is not None


def test_identity_tells_what_is_made_from_how_it_is_made():
    one = identify(Job())
    assert JobIdentity.from_comment(one.comment) == one
    assert identify(Job(seed=2)).outputs == one.outputs
    assert identify(Job(seed=2)).settings != one.settings
    assert identify(Job(output="b.h5")).outputs != one.outputs
    assert identify(Job(wildcards=("a b|c",))).label == "relax_candidates_a-b-c"


def test_campaigns_of_one_name_in_two_places_differ(tmp_path):
    here, there = tmp_path / "a" / "halides", tmp_path / "b" / "halides"
    for path in (here, there):
        path.mkdir(parents=True)
    assert campaign_name(here) != campaign_name(there)
    assert campaign_name(here) == campaign_name(there / ".." / ".." / "a" / "halides")
    assert campaign_name(here, "ha lides!").startswith("ha-lides-")


def test_profile_has_at_most_ten_lines_to_edit_and_only_known_settings():
    text = PROFILE.read_text()
    edits = [line for line in text.splitlines() if "# EDIT" in line]
    assert 3 <= len(edits) <= 10
    options = [
        key.removeprefix("sluice-").replace("-", "_") for key in yaml.safe_load(text) if key.startswith("sluice-")
    ]
    assert options and set(options) <= set(ExecutorSettings.__dataclass_fields__)
