"""Formulas, charges, distances, matching of crystals and costs: what several stages share."""
