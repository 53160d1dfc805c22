# Typed input and resource functions, and the settings that rules pass on. Tested in tests/workflow/test_common.py.
from sluice.dag import (
    earlier_decision,
    earlier_shortlists,
    earlier_validated,
    memory_mb,
    runtime_minutes,
    settings_json,
)

ROUNDS = list(range(1, CAMPAIGN.rounds + 1))
LABEL_BATCHES = list(range(CAMPAIGN.curate.batches))
GENERATE_BATCHES = list(range(CAMPAIGN.generate.batches))
RELAX_BATCHES = list(range(CAMPAIGN.screen.relax.batches))
DFT_BATCHES = list(range(CAMPAIGN.validate_.batches))
DEVICE = CAMPAIGN.train.device
GPUS = 0 if DEVICE == "cpu" else 1
LIBRARY = str(CAMPAIGN.library)
