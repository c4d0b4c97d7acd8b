"""The version, for all that must say it and cannot import the package to ask."""

__version__ = "0.1.0"
