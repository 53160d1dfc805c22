"""Which job of which campaign a SLURM job does: a name for the campaign, digests for the job in the comment.

The name is the same whenever a driver runs in the same directory: a later driver finds what an earlier one left.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMENT_WORD = "sluice"


def campaign_name(workdir: Path, prefix: str | None = None) -> str:
    """Job name of all jobs of one campaign: readable, and unique to its directory.

    Args:
        workdir: the campaign's working directory.
        prefix: to be used instead of the directory's name.
    """
    path = workdir.resolve()
    word = re.sub(r"[^A-Za-z0-9_-]+", "-", prefix or path.name).strip("-")[:40] or "campaign"
    return f"{word}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class JobIdentity:
    """What a job makes and from what.

    Attributes:
        outputs: digest of rule and outputs; two jobs of one campaign that agree in it must never run at once.
        settings: digest of inputs, parameters and command; where it differs, the older job does outdated work.
        label: rule and wildcards for people.
    """

    outputs: str
    settings: str
    label: str

    @property
    def comment(self) -> str:
        """What is written into the SLURM job's comment."""
        return f"{COMMENT_WORD} {self.outputs} {self.settings} {self.label}"

    @classmethod
    def from_comment(cls, comment: str) -> JobIdentity | None:
        """Read a comment back; None if another program wrote it."""
        words = comment.split(" ", 3)
        if len(words) < 3 or words[0] != COMMENT_WORD:
            return None
        return cls(words[1], words[2], words[3] if len(words) > 3 else "")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digest_of_outputs(rules: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Digest of what a job (or a group of jobs) makes: rules and their outputs as Snakemake names them."""
    return _digest(sorted((rule, sorted(outputs)) for rule, outputs in rules))


def identify(job: Any) -> JobIdentity:
    """The identity of one of Snakemake's jobs (or group of jobs)."""
    members = list(job) if job.is_group() else [job]
    outputs = digest_of_outputs((m.rule.name, [str(f) for f in m.output]) for m in members)
    settings = sorted(
        (
            m.rule.name,
            [str(f) for f in m.input],
            [str(p) for p in m.non_derived_params],
            str(m.rule.shellcmd or ""),
        )
        for m in members
    )
    wildcards = "" if job.is_group() else "_".join(str(w) for w in job.wildcards)
    label = re.sub(r"[^A-Za-z0-9_.=-]+", "-", f"{job.name}_{wildcards}" if wildcards else job.name)[:80]
    return JobIdentity(outputs, _digest(settings), label)
