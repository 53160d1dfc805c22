# The models of a round: a generator of crystals and a screener of formation energies.


rule collect_training_set:
    input:
        dataset="curate/dataset.h5",
        validated=earlier_validated,
        shortlists=earlier_shortlists,
    output:
        training_set="round_{round}/train/training_set.h5",
    log:
        "logs/collect_training_set/round_{round}.log",
    benchmark:
        "benchmarks/collect_training_set/round_{round}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000, per_thousand_atoms=2),
        runtime=runtime_minutes(15, per_thousand_atoms=0.01),
    params:
        revision=revision("train.collect_training_set"),
    shell:
        "python -m sluice.train.collect_training_set "
        "--dataset {input.dataset} "
        "--validated {input.validated} "
        "--shortlists {input.shortlists} "
        "--round {wildcards.round} "
        "--training-set {output.training_set} "
        "--log {log}"


rule train_generator:
    input:
        training_set="round_{round}/train/training_set.h5",
        decision=earlier_decision,
        earlier=earlier_generator,
    output:
        model="round_{round}/train/generator.ckpt",
        metrics="round_{round}/train/generator_metrics.csv",
    log:
        "logs/train_generator/round_{round}.log",
    benchmark:
        "benchmarks/train_generator/round_{round}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: TRAINING_CORES
    resources:
        mem_mb=memory_mb(4000, per_thousand_atoms=4),
        runtime=runtime_minutes(
            240, per_thousand_atoms=0.002 * CAMPAIGN.train.generator.epochs
        ),
        gpu=TRAINING_GPUS,
    params:
        revision=revision("train.train_generator"),
        device=DEVICE,
        devices=CAMPAIGN.train.devices,
        settings=settings_json(CAMPAIGN.train.generator),
        checkpoints="round_{round}/train/generator_checkpoints",
        seed=CAMPAIGN.seed,
        precision=CAMPAIGN.train.precision,
        # The number asked for, not what the scheduler grants: it decides the result's last bits.
        threads=CAMPAIGN.train.threads,
    shell:
        "python -m sluice.train.train_generator "
        "--training-set {input.training_set} "
        "--settings {params.settings:q} "
        "--checkpoints {params.checkpoints:q} "
        "--seed {params.seed:q} "
        "--precision {params.precision:q} "
        "--threads {params.threads} "
        "--device {params.device} "
        "--devices {params.devices} "
        "--round {wildcards.round} "
        "--decision {input.decision} "
        "--earlier {input.earlier} "
        "--model {output.model} "
        "--metrics {output.metrics} "
        "--log {log}"


rule train_screener:
    input:
        training_set="round_{round}/train/training_set.h5",
        generator=drawing_generator(CAMPAIGN.train.screener),
        decision=earlier_decision,
        earlier=earlier_screener,
    output:
        model="round_{round}/train/screener.ckpt",
        metrics="round_{round}/train/screener_metrics.csv",
        predictions="round_{round}/train/screener_test.h5",
    log:
        "logs/train_screener/round_{round}.log",
    benchmark:
        "benchmarks/train_screener/round_{round}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: TRAINING_CORES
    resources:
        mem_mb=memory_mb(4000, per_thousand_atoms=4),
        runtime=runtime_minutes(
            240, per_thousand_atoms=0.005 * CAMPAIGN.train.screener.epochs
        ),
        gpu=TRAINING_GPUS,
    params:
        revision=revision("train.train_screener"),
        device=DEVICE,
        devices=CAMPAIGN.train.devices,
        settings=settings_json(CAMPAIGN.train.screener),
        checkpoints="round_{round}/train/screener_checkpoints",
        seed=CAMPAIGN.seed,
        precision=CAMPAIGN.train.precision,
        # The number asked for, not what the scheduler grants: it decides the result's last bits.
        threads=CAMPAIGN.train.threads,
    shell:
        "python -m sluice.train.train_screener "
        "--training-set {input.training_set} "
        "--settings {params.settings:q} "
        "--checkpoints {params.checkpoints:q} "
        "--seed {params.seed:q} "
        "--precision {params.precision:q} "
        "--threads {params.threads} "
        "--device {params.device} "
        "--devices {params.devices} "
        "--round {wildcards.round} "
        "--generator {input.generator} "
        "--decision {input.decision} "
        "--earlier {input.earlier} "
        "--model {output.model} "
        "--metrics {output.metrics} "
        "--predictions {output.predictions} "
        "--log {log}"
