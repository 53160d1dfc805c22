"""The report: what went through the campaign, what is left of it, and how it was made."""
