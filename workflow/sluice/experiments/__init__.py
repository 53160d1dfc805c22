"""Experiments: a paper's table or figure, reproduced by one target; docs/experiments/README.md says how to add one."""
