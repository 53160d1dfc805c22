# The models of a round: a generator of compositions and a scorer of their formation energies.


rule train_composition_generator:
    input:
        compositions="curate/compositions.h5",
    output:
        model="round_{round}/train/composition_generator.ckpt",
        metrics="round_{round}/train/composition_generator_metrics.csv",
    log:
        "logs/train_composition_generator/round_{round}.log",
    benchmark:
        "benchmarks/train_composition_generator/round_{round}.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: CAMPAIGN.train.threads
    resources:
        mem_mb=memory_mb(3000),
        runtime=runtime_minutes(240),
        gpu=GPUS,
    params:
        revision=revision("train.train_composition_generator"),
        device=DEVICE,
        settings=settings_json(CAMPAIGN.compositions.generator),
        chemistry=settings_json(CAMPAIGN.chemistry),
        checkpoints="round_{round}/train/composition_generator_checkpoints",
        seed=CAMPAIGN.seed,
        precision=CAMPAIGN.train.precision,
        # The number asked for, not what the scheduler grants: it decides the result's last bits.
        threads=CAMPAIGN.train.threads,
    shell:
        "python -m sluice.train.train_composition_generator "
        "--compositions {input.compositions} "
        "--settings {params.settings:q} "
        "--chemistry {params.chemistry:q} "
        "--checkpoints {params.checkpoints:q} "
        "--seed {params.seed:q} "
        "--precision {params.precision:q} "
        "--threads {params.threads} "
        "--device {params.device} "
        "--round {wildcards.round} "
        "--model {output.model} "
        "--metrics {output.metrics} "
        "--log {log}"


rule train_composition_scorer:
    input:
        compositions="curate/compositions.h5",
        generator=vectors_of_the_generator(CAMPAIGN),
    output:
        model="round_{round}/train/composition_scorer.ckpt",
        metrics="round_{round}/train/composition_scorer_metrics.csv",
        predictions="round_{round}/train/composition_scorer_held_out.h5",
    log:
        "logs/train_composition_scorer/round_{round}.log",
    benchmark:
        "benchmarks/train_composition_scorer/round_{round}.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: TRAINING_CORES
    resources:
        mem_mb=memory_mb(3000),
        runtime=runtime_minutes(240),
        gpu=TRAINING_GPUS,
    params:
        revision=revision("train.train_composition_scorer"),
        device=DEVICE,
        devices=CAMPAIGN.train.devices,
        settings=settings_json(CAMPAIGN.compositions.scorer),
        checkpoints="round_{round}/train/composition_scorer_checkpoints",
        seed=CAMPAIGN.seed,
        precision=CAMPAIGN.train.precision,
        # The number asked for, not what the scheduler grants: it decides the result's last bits.
        threads=CAMPAIGN.train.threads,
    shell:
        "python -m sluice.train.train_composition_scorer "
        "--compositions {input.compositions} "
        "--generator {input.generator} "
        "--settings {params.settings:q} "
        "--checkpoints {params.checkpoints:q} "
        "--seed {params.seed:q} "
        "--precision {params.precision:q} "
        "--threads {params.threads} "
        "--device {params.device} "
        "--devices {params.devices} "
        "--round {wildcards.round} "
        "--model {output.model} "
        "--metrics {output.metrics} "
        "--predictions {output.predictions} "
        "--log {log}"
