"""The small campaign of report_campaign.py, written once, and its report."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
from report_campaign import Campaign, make_campaign


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """One round, finished, never changed by a test."""
    return make_campaign(tmp_path_factory.mktemp("results") / "fluorides")


@pytest.fixture(scope="session")
def built(campaign: Campaign) -> dict[str, Any]:
    """The report of that campaign: ``summary`` and ``html``."""
    from sluice.report.build_report import build_report

    arguments = campaign.arguments()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)  # spglib
        build_report(**arguments)
    return {
        "summary": json.loads(arguments["summary"].read_text(encoding="utf-8")),
        "html": arguments["html"].read_text(encoding="utf-8"),
        "folder": campaign.folder / "report",
    }
