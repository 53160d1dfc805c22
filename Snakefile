# Sluice: curate -> train -> generate -> screen -> validate -> report, each stage a file of rules.
from pathlib import Path

from sluice.config_file import check_config
from sluice.dag import container_image

if not config:

    configfile: "config/config.yaml"


CAMPAIGN = check_config(
    config, source=Path(workflow.configfiles[-1]) if workflow.configfiles else None
)


workdir: CAMPAIGN.workdir


if container_image() is not None:

    container: container_image()  # for --software-deployment-method apptainer


wildcard_constraints:
    round=r"\d+",
    batch=r"\d+",
    variant=r"\w+",
    repeat=r"\d+",


localrules:
    all,


include: "workflow/rules/common.smk"
include: "workflow/rules/1_curate.smk"
include: "workflow/rules/2_train.smk"
include: "workflow/rules/3_generate.smk"
include: "workflow/rules/4_screen.smk"
include: "workflow/rules/5_validate.smk"
include: "workflow/rules/6_report.smk"


rule all:
    default_target: True
    input:
        "report/index.html",
        "report/summary.json",
