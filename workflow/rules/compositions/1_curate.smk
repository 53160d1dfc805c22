# The formulas to learn from, with formation energies: of the database of crystals, or of a table.


rule collect_compositions:
    input:
        dataset=database_of_crystals(CAMPAIGN),
        table=formula_table(CAMPAIGN),
    output:
        compositions="curate/compositions.h5",
    log:
        "logs/collect_compositions.log",
    benchmark:
        "benchmarks/collect_compositions.tsv"
    conda:
        "../../../envs/python-cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(30),
    params:
        revision=revision("curate.collect_compositions"),
        settings=settings_json(CAMPAIGN.compositions.data),
        curate=settings_json(CAMPAIGN.curate),
        chemistry=settings_json(CAMPAIGN.chemistry),
        seed=CAMPAIGN.seed,
        campaign=CAMPAIGN.campaign,
    shell:
        "python -m sluice.curate.collect_compositions "
        "--dataset {input.dataset} "
        "--table {input.table:q} "
        "--settings {params.settings:q} "
        "--curate {params.curate:q} "
        "--chemistry {params.chemistry:q} "
        "--seed {params.seed:q} "
        "--campaign {params.campaign:q} "
        "--compositions {output.compositions} "
        "--log {log}"
