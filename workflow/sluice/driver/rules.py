"""What the rule files say about paths: which job made a file, where its log is.

Rules hold literal paths (tests/test_architecture.py sees to it), so they can be read without building the DAG.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sluice.config import Config
from sluice.errors import SluiceError

REPOSITORY = Path(__file__).resolve().parents[3]
_SECTION = re.compile(r"^    (\w+):\s*(.*)$")
_TEXT = re.compile(r'"([^"]*)"')


@dataclass(frozen=True)
class Job:
    """One job: a rule with its wildcards filled in."""

    rule: str
    outputs: tuple[str, ...]
    log: str

    @property
    def name(self) -> str:
        """The name under which the attempts file knows it, e.g. ``relax_candidates/round_1_batch_2``."""
        return self.log.removeprefix("logs/").removesuffix(".log")


@dataclass(frozen=True)
class Rule:
    """A rule's stage (its file's name), output and log patterns, and whether an output is a directory."""

    name: str
    stage: str
    outputs: tuple[str, ...]
    log: str
    makes_directory: bool

    def job_of(self, output: str) -> Job | None:
        """The job of this rule that makes ``output``, if there is one."""
        return next((job for pattern in self.outputs if (job := self._job(pattern, output))), None)

    def job_named(self, name: str) -> Job | None:
        """The job of this rule that the attempts file knows under a name, if there can be one."""
        return self._job(self.log, f"logs/{name}.log")

    def _job(self, pattern: str, path: str) -> Job | None:
        match = re.fullmatch(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\w+)", re.escape(pattern)), path)
        if match is None:
            return None
        wildcards = match.groupdict()
        return Job(self.name, tuple(p.format(**wildcards) for p in self.outputs), self.log.format(**wildcards))


def repository() -> Path:
    """The folder that holds the Snakefile: the checkout the package is installed from, else the current directory.

    Raises:
        SluiceError: if there is none.
    """
    for folder in (REPOSITORY, Path.cwd()):
        if (folder / "Snakefile").is_file() and (folder / "workflow" / "rules").is_dir():
            return folder
    raise SluiceError(f"no Snakefile in {REPOSITORY} or {Path.cwd()}: run `sluice` inside a clone of the repository")


def campaign_rules(config: Config) -> dict[str, Rule]:
    """The rules of a campaign, in pipeline order: what its candidates are decides which files there are.

    Raises:
        SluiceError: if there is no Snakefile.
    """
    folder = repository() / "workflow" / "rules"
    rules = read_rules(folder)
    if config.candidates == "crystals":
        return rules
    database = {name: rule for name, rule in rules.items() if rule.stage == "curate" and config.curates_crystals}
    return database | read_rules(folder / "compositions")


@cache
def read_rules(folder: Path) -> dict[str, Rule]:
    """All rules of the numbered files of ``folder`` itself, in pipeline order; of ``experiments``, of all its files."""
    rules: dict[str, Rule] = {}
    numbered = sorted(folder.glob("[0-9]_*.smk"))
    for path in numbered or sorted(folder.glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        stage = path.stem.split("_", 1)[1] if numbered else folder.name
        for block in re.split(r"^(?=rule \w+:)", text, flags=re.MULTILINE)[1:]:
            if block.startswith("rule all:"):
                continue
            rule = _read_rule(block, stage)
            rules[rule.name] = rule
    return rules


def _read_rule(block: str, stage: str) -> Rule:
    name = re.match(r"rule (\w+):", block).group(1)  # type: ignore[union-attr]
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in block.splitlines()[1:]:
        if match := _SECTION.match(line):
            current = sections.setdefault(match.group(1), [])
            current.append(match.group(2))
        else:
            current.append(line)
    output = "\n".join(sections.get("output", []))
    log = _TEXT.findall("\n".join(sections.get("log", [])))
    return Rule(name, stage, tuple(_TEXT.findall(output)), log[0] if log else "", "directory(" in output)


def job_of(rules: dict[str, Rule], output: str) -> Job | None:
    """The job that makes ``output``, a path relative to the campaign's working directory."""
    return next((job for rule in rules.values() if (job := rule.job_of(output))), None)
