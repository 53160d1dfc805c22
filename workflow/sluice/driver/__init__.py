"""The driver of a campaign: its lease, the settling of interrupted work, Snakemake as a child, and views of it all."""
