# Sluice: curate -> train -> generate -> screen -> validate -> report, each stage a file of rules.
from pathlib import Path

from sluice.config_file import check_config
from sluice.dag import container_image

if not config:

    configfile: "config/config.yaml"


CAMPAIGN = check_config(config, source=next(map(Path, workflow.configfiles[-1:]), None))


workdir: CAMPAIGN.workdir


if container_image() is not None:

    container: container_image()  # for --software-deployment-method apptainer


include: "workflow/rules/common.smk"
include: "workflow/rules/1_curate.smk"


if CAMPAIGN.candidates == "crystals":

    include: "workflow/rules/2_train.smk"
    include: "workflow/rules/3_generate.smk"
    include: "workflow/rules/4_screen.smk"
    include: "workflow/rules/5_validate.smk"
    include: "workflow/rules/6_report.smk"

else:

    include: "workflow/rules/compositions/1_curate.smk"
    include: "workflow/rules/compositions/2_train.smk"
    include: "workflow/rules/compositions/3_generate.smk"
    include: "workflow/rules/compositions/4_screen.smk"
    include: "workflow/rules/compositions/6_report.smk"


rule all:
    default_target: True
    input:
        "report/index.html",
        "report/summary.json",
    localrule: True
