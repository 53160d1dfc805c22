# Screening: every step a file, every candidate that does not go on a row with its reason.


rule check_geometry:
    input:
        candidates="round_{round}/generate/batch_{batch}.h5",
    output:
        geometry="round_{round}/screen/geometry/batch_{batch}.h5",
    log:
        "logs/check_geometry/round_{round}_batch_{batch}.log",
    benchmark:
        "benchmarks/check_geometry/round_{round}_batch_{batch}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000, per_thousand_atoms=0.1),
        runtime=runtime_minutes(120, per_thousand_atoms=0.01),
    params:
        revision=revision("screen.check_geometry"),
        settings=settings_json(CAMPAIGN.screen.geometry),
    shell:
        "python -m sluice.screen.check_geometry "
        "--candidates {input.candidates} "
        "--settings {params.settings:q} "
        "--geometry {output.geometry} "
        "--log {log}"


rule check_symmetry:
    input:
        candidates="round_{round}/screen/geometry/batch_{batch}.h5",
    output:
        symmetry="round_{round}/screen/symmetry/batch_{batch}.h5",
    log:
        "logs/check_symmetry/round_{round}_batch_{batch}.log",
    benchmark:
        "benchmarks/check_symmetry/round_{round}_batch_{batch}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000, per_thousand_atoms=0.1),
        runtime=runtime_minutes(120, per_thousand_atoms=0.01),
    params:
        revision=revision("screen.check_symmetry"),
        settings=settings_json(CAMPAIGN.screen.symmetry),
    shell:
        "python -m sluice.screen.check_symmetry "
        "--candidates {input.candidates} "
        "--settings {params.settings:q} "
        "--symmetry {output.symmetry} "
        "--log {log}"


rule check_charge:
    input:
        candidates="round_{round}/screen/symmetry/batch_{batch}.h5",
    output:
        charge="round_{round}/screen/charge/batch_{batch}.h5",
    log:
        "logs/check_charge/round_{round}_batch_{batch}.log",
    benchmark:
        "benchmarks/check_charge/round_{round}_batch_{batch}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000, per_thousand_atoms=0.1),
        runtime=runtime_minutes(120, per_thousand_atoms=0.01),
    params:
        revision=revision("screen.check_charge"),
        settings=settings_json(CAMPAIGN.screen.charge),
    shell:
        "python -m sluice.screen.check_charge "
        "--candidates {input.candidates} "
        "--settings {params.settings:q} "
        "--charge {output.charge} "
        "--log {log}"


rule remove_duplicates:
    input:
        candidates=expand(
            "round_{round}/screen/charge/batch_{batch}.h5",
            batch=GENERATE_BATCHES,
            allow_missing=True,
        ),
        known="curate/dataset.h5",
        earlier=earlier_shortlists,
    output:
        unique="round_{round}/screen/unique.h5",
    log:
        "logs/remove_duplicates/round_{round}.log",
    benchmark:
        "benchmarks/remove_duplicates/round_{round}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(3000, per_thousand_atoms=0.1),
        runtime=runtime_minutes(240, per_thousand_atoms=0.01),
    params:
        revision=revision("screen.remove_duplicates"),
        settings=settings_json(CAMPAIGN.screen.duplicates),
    shell:
        "python -m sluice.screen.remove_duplicates "
        "--candidates {input.candidates} "
        "--known {input.known} "
        "--earlier {input.earlier} "
        "--settings {params.settings:q} "
        "--unique {output.unique} "
        "--log {log}"


rule score_candidates:
    input:
        candidates="round_{round}/screen/unique.h5",
        model="round_{round}/train/screener.ckpt",
        filters=filter_models(CAMPAIGN.screen),
    output:
        scored="round_{round}/screen/scored.h5",
    log:
        "logs/score_candidates/round_{round}.log",
    benchmark:
        "benchmarks/score_candidates/round_{round}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: CAMPAIGN.train.threads
    resources:
        mem_mb=memory_mb(3000, per_thousand_atoms=10),
        runtime=runtime_minutes(120, per_thousand_atoms=0.1),
        gpu=GPUS,
    params:
        revision=revision("screen.score_candidates"),
        device=DEVICE,
        settings=settings_json(CAMPAIGN.screen.score),
    shell:
        "python -m sluice.screen.score_candidates "
        "--candidates {input.candidates} "
        "--model {input.model} "
        "--settings {params.settings:q} "
        "--device {params.device} "
        "--scored {output.scored} "
        "--log {log}"


rule select_candidates:
    input:
        candidates="round_{round}/screen/scored.h5",
    output:
        selected="round_{round}/screen/selected.h5",
    log:
        "logs/select_candidates/round_{round}.log",
    benchmark:
        "benchmarks/select_candidates/round_{round}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000, per_thousand_atoms=2),
        runtime=runtime_minutes(30, per_thousand_atoms=0.01),
    params:
        revision=revision("screen.select_candidates"),
        settings=settings_json(CAMPAIGN.screen.relax),
    shell:
        "python -m sluice.screen.select_candidates "
        "--candidates {input.candidates} "
        "--settings {params.settings:q} "
        "--selected {output.selected} "
        "--log {log}"


rule relax_candidates:
    input:
        candidates="round_{round}/screen/selected.h5",
    output:
        relaxed="round_{round}/screen/relaxed/batch_{batch}.h5",
    log:
        "logs/relax_candidates/round_{round}_batch_{batch}.log",
    benchmark:
        "benchmarks/relax_candidates/round_{round}_batch_{batch}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(3000, per_thousand_atoms=2, per_cell_atom=20),
        runtime=runtime_minutes(240, per_thousand_atoms=20 / len(RELAX_BATCHES)),
        gpu=GPUS,
    params:
        revision=revision("screen.relax_candidates"),
        device=DEVICE,
        settings=settings_json(CAMPAIGN.screen.relax),
        symprec=CAMPAIGN.screen.symmetry.symprec,
        seed=CAMPAIGN.seed,
    shell:
        "python -m sluice.screen.relax_candidates "
        "--candidates {input.candidates} "
        "--settings {params.settings:q} "
        "--symprec {params.symprec} "
        "--seed {params.seed:q} "
        "--batch {wildcards.batch} "
        "--device {params.device} "
        "--relaxed {output.relaxed} "
        "--log {log}"


rule rank_candidates:
    input:
        candidates=expand(
            "round_{round}/screen/relaxed/batch_{batch}.h5",
            batch=RELAX_BATCHES,
            allow_missing=True,
        ),
        known="curate/dataset.h5",
        earlier=earlier_shortlists,
        models=objective_models(CAMPAIGN.screen),
    output:
        ranked="round_{round}/screen/ranked.h5",
    log:
        "logs/rank_candidates/round_{round}.log",
    benchmark:
        "benchmarks/rank_candidates/round_{round}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000, per_thousand_atoms=2),
        runtime=runtime_minutes(60, per_thousand_atoms=0.1),
    params:
        revision=revision("screen.rank_candidates"),
        settings=settings_json(CAMPAIGN.screen),
    shell:
        "python -m sluice.screen.rank_candidates "
        "--candidates {input.candidates} "
        "--known {input.known} "
        "--earlier {input.earlier} "
        "--settings {params.settings:q} "
        "--ranked {output.ranked} "
        "--log {log}"


rule shortlist_candidates:
    input:
        candidates="round_{round}/screen/ranked.h5",
    output:
        shortlist="round_{round}/screen/shortlist.h5",
    log:
        "logs/shortlist_candidates/round_{round}.log",
    benchmark:
        "benchmarks/shortlist_candidates/round_{round}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000, per_thousand_atoms=2),
        runtime=runtime_minutes(30, per_thousand_atoms=1),
    params:
        revision=revision("screen.shortlist_candidates"),
        library=LIBRARY,
        settings=settings_json(CAMPAIGN.screen.shortlist),
        chemistry=settings_json(CAMPAIGN.chemistry),
        dft=settings_json(CAMPAIGN.validate_),
    shell:
        "python -m sluice.screen.shortlist_candidates "
        "--candidates {input.candidates} "
        "--settings {params.settings:q} "
        "--chemistry {params.chemistry:q} "
        "--dft {params.dft:q} "
        "--library {params.library:q} "
        "--shortlist {output.shortlist} "
        "--log {log}"
