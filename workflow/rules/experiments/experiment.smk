# Experiments: one preparation, a job for every variant and repeat, one comparison with the paper.
# `sluice experiment NAME` plans it (mode, cuts, data) and runs it; its configuration lies in the working directory.
from sluice.dag import memory_mb, prefer_this_python, revision, runtime_minutes
from sluice.experiments.plan import Plan

PLAN = Plan(config)

prefer_this_python()


wildcard_constraints:
    variant=r"\w+",
    repeat=r"\d+",


localrules:
    all,


rule all:
    default_target: True
    input:
        "results",


rule prepare_data:
    input:
        data=PLAN.data_files,
    output:
        prepared=directory("prepared"),
    log:
        "logs/prepare_data.log",
    benchmark:
        "benchmarks/prepare_data.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(PLAN.config.memory_mb),
        runtime=runtime_minutes(120),
    params:
        revision=revision("experiments.prepare_data"),
        experiment=PLAN.name,
        settings=PLAN.preparation,
    shell:
        "python -m sluice.experiments.prepare_data "
        "--experiment {params.experiment} "
        "--settings {params.settings:q} "
        "--prepared {output.prepared} "
        "--log {log}"


rule run_part:
    input:
        prepared="prepared",
        needed=PLAN.needed_runs,
    output:
        run=directory("runs/{variant}/repeat_{repeat}"),
    log:
        "logs/run_part/{variant}_{repeat}.log",
    benchmark:
        "benchmarks/run_part/{variant}_{repeat}.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: PLAN.threads
    resources:
        mem_mb=memory_mb(PLAN.config.memory_mb),
        runtime=runtime_minutes(720),
        gpu=0 if PLAN.config.device == "cpu" else 1,
    params:
        revision=revision("experiments.run_part"),
        experiment=PLAN.name,
        settings=PLAN.job_settings,
        # Not in `output`: Snakemake deletes those before every retry.
        checkpoints="checkpoints/{variant}/repeat_{repeat}",
        # The number asked for, not what the scheduler grants: it decides the result's last bits.
        threads=PLAN.threads,
    shell:
        "python -m sluice.experiments.run_part "
        "--experiment {params.experiment} "
        "--settings {params.settings:q} "
        "--prepared {input.prepared} "
        "--needed {input.needed} "
        "--checkpoints {params.checkpoints} "
        "--threads {params.threads} "
        "--run {output.run} "
        "--log {log}"


rule compare_results:
    input:
        prepared="prepared",
        runs=PLAN.all_runs,
    output:
        results=directory("results"),
    log:
        "logs/compare_results.log",
    benchmark:
        "benchmarks/compare_results.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(PLAN.config.memory_mb),
        runtime=runtime_minutes(120),
    params:
        revision=revision("experiments.compare_results"),
        experiment=PLAN.name,
        settings=PLAN.all_settings,
    shell:
        "python -m sluice.experiments.compare_results "
        "--experiment {params.experiment} "
        "--settings {params.settings:q} "
        "--prepared {input.prepared} "
        "--runs {input.runs} "
        "--results {output.results} "
        "--log {log}"
