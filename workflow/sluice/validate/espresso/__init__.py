"""Quantum ESPRESSO: input sets, jobs, custody and parsing, in the layout atomate2 gives a code."""
