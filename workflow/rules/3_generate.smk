# Candidates drawn from the generator, batch by batch.


rule generate_candidates:
    input:
        model="round_{round}/train/generator.ckpt",
        decision=earlier_decision,
    output:
        candidates="round_{round}/generate/batch_{batch}.h5",
    log:
        "logs/generate_candidates/round_{round}_batch_{batch}.log",
    benchmark:
        "benchmarks/generate_candidates/round_{round}_batch_{batch}.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2500 + 0.001 * DRAWN),
        runtime=runtime_minutes(120 + 1e-5 * DRAWN),
        gpu=GPUS,
    params:
        revision=revision("generate.generate_candidates"),
        device=DEVICE,
        settings=settings_json(CAMPAIGN.generate),
        chemistry=settings_json(CAMPAIGN.chemistry),
        seed=CAMPAIGN.seed,
    shell:
        "python -m sluice.generate.generate_candidates "
        "--model {input.model} "
        "--decision {input.decision} "
        "--settings {params.settings:q} "
        "--chemistry {params.chemistry:q} "
        "--seed {params.seed:q} "
        "--round {wildcards.round} "
        "--batch {wildcards.batch} "
        "--device {params.device} "
        "--candidates {output.candidates} "
        "--log {log}"
