"""VASP through atomate2's makers and custodian's handlers."""
