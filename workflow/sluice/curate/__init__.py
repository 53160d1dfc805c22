"""The database to learn from: crystals collected, labelled with formation energies, split by formula."""
