# Compositions drawn from the generator, batch by batch.


rule generate_compositions:
    input:
        model="round_{round}/train/composition_generator.ckpt",
    output:
        candidates="round_{round}/generate/compositions/batch_{batch}.h5",
    log:
        "logs/generate_compositions/round_{round}_batch_{batch}.log",
    benchmark:
        "benchmarks/generate_compositions/round_{round}_batch_{batch}.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(120),
        gpu=GPUS,
    params:
        revision=revision("generate.generate_compositions"),
        device=DEVICE,
        settings=settings_json(CAMPAIGN.generate),
        chemistry=settings_json(CAMPAIGN.chemistry),
        decoding=CAMPAIGN.compositions.decoding,
        seed=CAMPAIGN.seed,
    shell:
        "python -m sluice.generate.generate_compositions "
        "--model {input.model} "
        "--settings {params.settings:q} "
        "--chemistry {params.chemistry:q} "
        "--decoding {params.decoding:q} "
        "--seed {params.seed:q} "
        "--round {wildcards.round} "
        "--batch {wildcards.batch} "
        "--device {params.device} "
        "--candidates {output.candidates} "
        "--log {log}"
