"""Validation error of CGCNN and GATGNN after a few passes, for batches of several sizes.

Settings, graphs and split of ``sluice experiment cgcnn-gatgnn``, formation energy; its test rows have no part in it.
The rate rises and falls within the passes given, so that each line is a whole training. CPU time counts.

    python benchmarks/batch_sizes.py results/experiments/cgcnn-gatgnn/default/prepared/formation.h5
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from sluice.experiments.cgcnn_gatgnn import ModelConfig, make_learner, split_rows
from sluice.experiments.plan import load_experiment_config
from sluice.models.graph_store import read_graphs
from sluice.models.training import Plan, train

CONFIG = Path(__file__).parents[1] / "config" / "experiments" / "cgcnn-gatgnn.yaml"
TRIALS = [  # network, passes, batch, learning rate
    ("cgcnn", 6, 256, 3e-3),
    ("cgcnn", 6, 64, 3e-3),
    ("cgcnn", 6, 64, 1.5e-3),
    ("cgcnn", 6, 32, 2e-3),
    ("gatgnn", 3, 256, 3e-3),
    ("gatgnn", 3, 64, 3e-3),
]


def main() -> None:
    """Train each, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", type=Path, help="prepared graphs of the experiment")
    parser.add_argument("--rows", type=int, help="most rows to learn from")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    _, graphs, columns = read_graphs(given.graphs)
    value, (_, config) = columns["value"], load_experiment_config(CONFIG)
    assert isinstance(config, ModelConfig)
    training, validation, _ = split_rows(len(value), config.seed)
    training = training[: given.rows]
    print(f"{len(training)} rows to learn from, {len(validation)} to validate on\n")
    print("| network | passes | batch | learning rate | CPU s | validation MAE, eV/atom |")
    print("|---|---|---|---|---|---|")
    for network, passes, batch, rate in TRIALS:
        settings = config.settings.model_copy(update={"batch_size": batch, "learning_rate": rate})
        with TemporaryDirectory() as folder:
            plan = Plan(
                description=f"{network} {batch}",
                n_rows=len(training),
                epochs=passes,
                batch_size=batch,
                seed=config.seed,
                digest="",
                checkpoints=Path(folder) / "checkpoints",
                checkpoint_minutes=60,
                metrics=Path(folder) / "metrics.csv",
                device="cpu",
                precision="32-true",
                threads=given.threads,
            )
            start = time.process_time()
            train(make_learner(settings, network, graphs, value, training=training, validation=validation), plan)
            spent = time.process_time() - start
            error = pd.read_csv(plan.metrics)["val_mae"].iloc[-1]
        print(f"| {network} | {passes} | {batch} | {rate:g} | {spent:.0f} | {error:.4f} |", flush=True)


if __name__ == "__main__":
    main()
