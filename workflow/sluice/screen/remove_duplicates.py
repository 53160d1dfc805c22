"""Put a round's batches together and reject what is known, was sent to DFT before, or occurs twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sluice.chemistry.duplicates import DuplicateFinder, Source
from sluice.config import DuplicateSettings
from sluice.screen.common import further_columns, in_order, lineage_of, stream
from sluice.step import report_progress, run_step
from sluice.store import Chunk, Store, StoreWriter

REVISION = 1
KNOWN = "known crystal"
EARLIER = "shortlisted in an earlier round"
DUPLICATE = "duplicate"
_VERB = {KNOWN: "same as", EARLIER: "same as", DUPLICATE: "duplicate of"}


def others(known: Path, earlier: Sequence[Path], group_column: str) -> list[Source]:
    """The crystals that win over every candidate: the database, then the shortlists of earlier rounds."""
    return [
        Source(known, "dataset", "space_group", KNOWN),
        *(Source(path, "shortlist", group_column, EARLIER) for path in sorted(earlier)),
    ]


def keep_unique(
    writer: StoreWriter, finder: DuplicateFinder, paths: Sequence[Path], schema: str, keep: Callable[[Chunk], None]
) -> None:
    """Record the candidates that the finder rejects and hand on the others, in the order of the stores."""
    done, total = 0, finder.total - finder.first_candidate
    for chunk in stream(paths, schema):
        verdicts = finder.verdicts(done, done + len(chunk))
        stays = np.array([kind == "" for kind, _ in verdicts], bool)
        keep(chunk.select(stays))
        gone = [verdict for verdict in verdicts if verdict[0]]
        writer.drop(
            chunk.candidate_id[~stays],
            [kind for kind, _ in gone],
            detail=[f"{_VERB[kind]} {other}" for kind, other in gone],
        )
        done += len(chunk)
        report_progress(done, total, "candidates")


def remove_duplicates(
    *, candidates: list[Path], known: Path, earlier: list[Path], settings: DuplicateSettings, unique: Path
) -> None:
    """Merge the batches of a round into one store of crystals that are new and occur once.

    Crystals are compared within one composition and space group; StructureMatcher decides, so the lattice constant
    makes no difference. Of equal candidates the one with the lowest id stays. The answer does not depend on the order
    of the batches, and memory not on the number of candidates.

    Args:
        candidates: the batches (schema ``charge``).
        known: the database (schema ``dataset``).
        earlier: shortlists of the rounds before, whose crystals went to DFT already.
        settings: StructureMatcher's tolerances.
        unique: what stays (schema ``unique``).
    """
    paths = in_order(candidates, "charge")
    sources = [Source(path, "charge", "space_group", DUPLICATE) for path in paths]
    scratch = unique.parent / f".{unique.stem}_scratch"
    with Store(paths[0], "charge", verify=False) as first:
        columns = further_columns(first, "unique")
    with (
        DuplicateFinder(others(known, earlier, "relaxed_space_group"), sources, settings, scratch) as finder,
        StoreWriter(
            unique,
            "unique",
            columns=columns,
            settings=settings,
            inputs=[*paths, known],
            revision=REVISION,
            **lineage_of(paths),
        ) as writer,
    ):
        keep_unique(writer, finder, paths, "charge", writer.append_chunk)


if __name__ == "__main__":
    run_step(remove_duplicates)
