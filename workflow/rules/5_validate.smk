# First-principles formation energies: elemental references first, then compounds.


rule plan_tasks:
    input:
        shortlist="round_{round}/screen/shortlist.h5",
    output:
        tasks="round_{round}/validate/tasks.h5",
    log:
        "logs/plan_tasks/round_{round}.log",
    benchmark:
        "benchmarks/plan_tasks/round_{round}.tsv"
    conda:
        "../../envs/espresso.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000, per_thousand_atoms=2),
        runtime=runtime_minutes(30, per_thousand_atoms=1),
    params:
        revision=revision("validate.plan_tasks"),
        library=LIBRARY,
        settings=settings_json(CAMPAIGN.validate_),
        chemistry=settings_json(CAMPAIGN.chemistry),
    shell:
        "python -m sluice.validate.plan_tasks "
        "--shortlist {input.shortlist} "
        "--settings {params.settings:q} "
        "--chemistry {params.chemistry:q} "
        "--library {params.library:q} "
        "--tasks {output.tasks} "
        "--log {log}"


rule compute_references:
    input:
        tasks="round_{round}/validate/tasks.h5",
    output:
        results="round_{round}/validate/references/batch_{batch}.h5",
    log:
        "logs/compute_references/round_{round}_batch_{batch}.log",
    benchmark:
        "benchmarks/compute_references/round_{round}_batch_{batch}.tsv"
    conda:
        "../../envs/espresso.yaml"
    threads: CAMPAIGN.validate_.ranks
    resources:
        mem_mb=memory_mb(1700 + 300 * CAMPAIGN.validate_.ranks, per_cell_atom=50),
        runtime=runtime_minutes(360, per_thousand_atoms=12_000 / len(DFT_BATCHES)),
    params:
        revision=revision("validate.compute_references"),
        library=LIBRARY,
        settings=settings_json(CAMPAIGN.validate_),
    shell:
        "python -m sluice.validate.compute_references "
        "--tasks {input.tasks} "
        "--settings {params.settings:q} "
        "--batch {wildcards.batch} "
        "--library {params.library:q} "
        "--results {output.results} "
        "--log {log}"


rule compute_compounds:
    input:
        tasks="round_{round}/validate/tasks.h5",
        references=expand(
            "round_{round}/validate/references/batch_{batch}.h5",
            batch=DFT_BATCHES,
            allow_missing=True,
        ),
    output:
        results="round_{round}/validate/compounds/batch_{batch}.h5",
    log:
        "logs/compute_compounds/round_{round}_batch_{batch}.log",
    benchmark:
        "benchmarks/compute_compounds/round_{round}_batch_{batch}.tsv"
    conda:
        "../../envs/espresso.yaml"
    threads: CAMPAIGN.validate_.ranks
    resources:
        mem_mb=memory_mb(1700 + 300 * CAMPAIGN.validate_.ranks, per_cell_atom=50),
        runtime=runtime_minutes(360, per_thousand_atoms=12_000 / len(DFT_BATCHES)),
    params:
        revision=revision("validate.compute_compounds"),
        library=LIBRARY,
        settings=settings_json(CAMPAIGN.validate_),
    shell:
        "python -m sluice.validate.compute_compounds "
        "--tasks {input.tasks} "
        "--references {input.references} "
        "--settings {params.settings:q} "
        "--batch {wildcards.batch} "
        "--library {params.library:q} "
        "--results {output.results} "
        "--log {log}"


rule collect_energies:
    input:
        shortlist="round_{round}/screen/shortlist.h5",
        tasks="round_{round}/validate/tasks.h5",
        references=expand(
            "round_{round}/validate/references/batch_{batch}.h5",
            batch=DFT_BATCHES,
            allow_missing=True,
        ),
        compounds=expand(
            "round_{round}/validate/compounds/batch_{batch}.h5",
            batch=DFT_BATCHES,
            allow_missing=True,
        ),
        known="curate/dataset.h5",
    output:
        validated="round_{round}/validate/validated.h5",
    log:
        "logs/collect_energies/round_{round}.log",
    benchmark:
        "benchmarks/collect_energies/round_{round}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000, per_thousand_atoms=2),
        runtime=runtime_minutes(30, per_thousand_atoms=1),
    params:
        revision=revision("validate.collect_energies"),
        settings=settings_json(CAMPAIGN.validate_),
        duplicates=settings_json(CAMPAIGN.screen.duplicates),
    shell:
        "python -m sluice.validate.collect_energies "
        "--shortlist {input.shortlist} "
        "--tasks {input.tasks} "
        "--references {input.references} "
        "--compounds {input.compounds} "
        "--known {input.known} "
        "--settings {params.settings:q} "
        "--duplicates {params.duplicates:q} "
        "--validated {output.validated} "
        "--log {log}"


rule decide_round:
    input:
        validated="round_{round}/validate/validated.h5",
        earlier=earlier_validated,
        before=earlier_decision,
    output:
        decision="round_{round}/decision.h5",
    log:
        "logs/decide_round/round_{round}.log",
    benchmark:
        "benchmarks/decide_round/round_{round}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(15),
    params:
        revision=revision("validate.decide_round"),
        settings=settings_json(CAMPAIGN.stop),
    shell:
        "python -m sluice.validate.decide_round "
        "--validated {input.validated} "
        "--earlier {input.earlier} "
        "--before {input.before} "
        "--settings {params.settings:q} "
        "--decision {output.decision} "
        "--log {log}"
