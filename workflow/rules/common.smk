# Typed input and resource functions, and the settings that rules pass on. Tested in tests/unit/test_dag.py.
from sluice.dag import (
    database_of_crystals,
    drawing_generator,
    earlier_decision,
    earlier_generator,
    earlier_screener,
    earlier_shortlists,
    earlier_validated,
    filter_models,
    formula_table,
    memory_mb,
    objective_models,
    prefer_this_python,
    revision,
    runtime_minutes,
    settings_json,
    training_cores,
    training_gpus,
    user_files,
    vectors_of_the_generator,
)


wildcard_constraints:
    round=r"\d+",
    batch=r"\d+",
    variant=r"\w+",
    repeat=r"\d+",


ROUNDS = list(range(1, CAMPAIGN.rounds + 1))
LABEL_BATCHES = list(range(CAMPAIGN.curate.batches))
GENERATE_BATCHES = list(range(CAMPAIGN.generate.batches))
RELAX_BATCHES = list(range(CAMPAIGN.screen.relax.batches))
DFT_BATCHES = list(range(CAMPAIGN.validate_.batches))
DEVICE = CAMPAIGN.train.device
TRAINING_GPUS = training_gpus(CAMPAIGN.train)
TRAINING_CORES = training_cores(CAMPAIGN.train)
GPUS = 0 if DEVICE == "cpu" else 1
LIBRARY = str(CAMPAIGN.library)

# Work that no store tells, for memory and run time; what every thousand atoms of a job's inputs or a file add to them
# are allowances of several times what was measured (benchmarks/RESULTS.md).
USER_FILES = len(user_files(CAMPAIGN.curate))
DRAWN = CAMPAIGN.generate.candidates / CAMPAIGN.generate.batches

# Steps run with the Python that runs Snakemake, activated or not; a conda environment of a rule still comes first.
prefer_this_python()
