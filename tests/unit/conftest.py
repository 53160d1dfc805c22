"""Puts this folder on the path, for formula_stores."""
