# The report of a campaign of compositions: read from its stores, up to the shortlist.


rule build_composition_report:
    input:
        compositions="curate/compositions.h5",
        metrics=expand(
            "round_{round}/train/composition_{model}_metrics.csv",
            round=ROUNDS,
            model=["generator", "scorer"],
        ),
        predictions=expand(
            "round_{round}/train/composition_scorer_held_out.h5", round=ROUNDS
        ),
        shortlists=expand(
            "round_{round}/screen/compositions/shortlist.h5", round=ROUNDS
        ),
    output:
        html="report/index.html",
        summary="report/summary.json",
        table="report/shortlist.csv",
    log:
        "logs/build_composition_report.log",
    benchmark:
        "benchmarks/build_composition_report.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(30),
    params:
        revision=revision("report.build_composition_report"),
        configuration=settings_json(CAMPAIGN),
    shell:
        "python -m sluice.report.build_composition_report "
        "--compositions {input.compositions} "
        "--configuration {params.configuration:q} "
        "--html {output.html} "
        "--summary {output.summary} "
        "--table {output.table} "
        "--log {log}"
