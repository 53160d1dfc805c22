"""First-principles formation energies."""
