# The database: crystals built or read, labelled with formation energies, split by formula.


rule collect_crystals:
    input:
        files=user_files(CAMPAIGN.curate),
    output:
        crystals="curate/crystals.h5",
    log:
        "logs/collect_crystals.log",
    benchmark:
        "benchmarks/collect_crystals.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000 + 0.02 * USER_FILES),
        runtime=runtime_minutes(30 + 0.002 * USER_FILES),
    params:
        revision=revision("curate.collect_crystals"),
        settings=settings_json(CAMPAIGN.curate),
        chemistry=settings_json(CAMPAIGN.chemistry),
        seed=CAMPAIGN.seed,
        campaign=CAMPAIGN.campaign,
    shell:
        "python -m sluice.curate.collect_crystals "
        "--settings {params.settings:q} "
        "--chemistry {params.chemistry:q} "
        "--seed {params.seed:q} "
        "--campaign {params.campaign:q} "
        "--crystals {output.crystals} "
        "--log {log}"


rule label_crystals:
    input:
        crystals="curate/crystals.h5",
    output:
        labelled="curate/labelled/batch_{batch}.h5",
    log:
        "logs/label_crystals/batch_{batch}.log",
    benchmark:
        "benchmarks/label_crystals/batch_{batch}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(3000, per_thousand_atoms=2),
        runtime=runtime_minutes(120, per_thousand_atoms=1 / len(LABEL_BATCHES)),
        gpu=GPUS,
    params:
        revision=revision("curate.label_crystals"),
        device=DEVICE,
        settings=settings_json(CAMPAIGN.curate),
        batches=CAMPAIGN.curate.batches,
    shell:
        "python -m sluice.curate.label_crystals "
        "--crystals {input.crystals} "
        "--settings {params.settings:q} "
        "--batches {params.batches:q} "
        "--batch {wildcards.batch} "
        "--device {params.device} "
        "--labelled {output.labelled} "
        "--log {log}"


rule split_crystals:
    input:
        labelled=expand("curate/labelled/batch_{batch}.h5", batch=LABEL_BATCHES),
    output:
        dataset="curate/dataset.h5",
    log:
        "logs/split_crystals.log",
    benchmark:
        "benchmarks/split_crystals.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000, per_thousand_atoms=2),
        runtime=runtime_minutes(15, per_thousand_atoms=0.01),
    params:
        revision=revision("curate.split_crystals"),
        settings=settings_json(CAMPAIGN.curate),
        seed=CAMPAIGN.seed,
    shell:
        "python -m sluice.curate.split_crystals "
        "--labelled {input.labelled} "
        "--settings {params.settings:q} "
        "--seed {params.seed:q} "
        "--dataset {output.dataset} "
        "--log {log}"
