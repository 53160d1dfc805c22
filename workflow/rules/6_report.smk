# The report: read from the stores of the whole campaign (its working directory).


rule build_report:
    input:
        dataset="curate/dataset.h5",
        training_sets=expand("round_{round}/train/training_set.h5", round=ROUNDS),
        metrics=expand(
            "round_{round}/train/{model}_metrics.csv",
            round=ROUNDS,
            model=["generator", "screener"],
        ),
        predictions=expand("round_{round}/train/screener_test.h5", round=ROUNDS),
        ranked=expand("round_{round}/screen/ranked.h5", round=ROUNDS),
        validated=expand("round_{round}/validate/validated.h5", round=ROUNDS),
        decisions=expand("round_{round}/decision.h5", round=ROUNDS),
    output:
        html="report/index.html",
        summary="report/summary.json",
        table="report/validated.csv",
        cifs=directory("report/cifs"),
    log:
        "logs/build_report.log",
    benchmark:
        "benchmarks/build_report.tsv"
    conda:
        "../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(30),
    params:
        revision=revision("report.build_report"),
        configuration=settings_json(CAMPAIGN),
    shell:
        "python -m sluice.report.build_report "
        "--dataset {input.dataset} "
        "--decisions {input.decisions} "
        "--configuration {params.configuration:q} "
        "--html {output.html} "
        "--summary {output.summary} "
        "--table {output.table} "
        "--cifs {output.cifs} "
        "--log {log}"
