"""Sluice: discovery campaigns for inorganic crystals."""

from importlib.metadata import version

__version__ = version("sluice-crystals")
