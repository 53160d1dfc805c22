# Screening of compositions: every step a file, every one that does not go on a row with its reason.


rule check_composition_charge:
    input:
        candidates="round_{round}/generate/compositions/batch_{batch}.h5",
    output:
        charge="round_{round}/screen/compositions/charge/batch_{batch}.h5",
    log:
        "logs/check_composition_charge/round_{round}_batch_{batch}.log",
    benchmark:
        "benchmarks/check_composition_charge/round_{round}_batch_{batch}.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(120),
    params:
        revision=revision("screen.check_composition_charge"),
        settings=settings_json(CAMPAIGN.screen.charge),
    shell:
        "python -m sluice.screen.check_composition_charge "
        "--candidates {input.candidates} "
        "--settings {params.settings:q} "
        "--charge {output.charge} "
        "--log {log}"


rule remove_known_compositions:
    input:
        candidates=expand(
            "round_{round}/screen/compositions/charge/batch_{batch}.h5",
            batch=GENERATE_BATCHES,
            allow_missing=True,
        ),
        known="curate/compositions.h5",
    output:
        unique="round_{round}/screen/compositions/unique.h5",
    log:
        "logs/remove_known_compositions/round_{round}.log",
    benchmark:
        "benchmarks/remove_known_compositions/round_{round}.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(240),
    params:
        revision=revision("screen.remove_known_compositions"),
    shell:
        "python -m sluice.screen.remove_known_compositions "
        "--candidates {input.candidates} "
        "--known {input.known} "
        "--unique {output.unique} "
        "--log {log}"


rule score_compositions:
    input:
        candidates="round_{round}/screen/compositions/unique.h5",
        model="round_{round}/train/composition_scorer.ckpt",
    output:
        scored="round_{round}/screen/compositions/scored.h5",
    log:
        "logs/score_compositions/round_{round}.log",
    benchmark:
        "benchmarks/score_compositions/round_{round}.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: CAMPAIGN.train.threads
    resources:
        mem_mb=memory_mb(3000),
        runtime=runtime_minutes(240),
        gpu=GPUS,
    params:
        revision=revision("screen.score_compositions"),
        device=DEVICE,
    shell:
        "python -m sluice.screen.score_compositions "
        "--candidates {input.candidates} "
        "--model {input.model} "
        "--device {params.device} "
        "--scored {output.scored} "
        "--log {log}"


rule shortlist_compositions:
    input:
        candidates="round_{round}/screen/compositions/scored.h5",
        known="curate/compositions.h5",
    output:
        shortlist="round_{round}/screen/compositions/shortlist.h5",
    log:
        "logs/shortlist_compositions/round_{round}.log",
    benchmark:
        "benchmarks/shortlist_compositions/round_{round}.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(60),
    params:
        revision=revision("screen.shortlist_compositions"),
        settings=settings_json(CAMPAIGN.compositions.shortlist),
    shell:
        "python -m sluice.screen.shortlist_compositions "
        "--candidates {input.candidates} "
        "--known {input.known} "
        "--settings {params.settings:q} "
        "--shortlist {output.shortlist} "
        "--log {log}"
