"""Architectures: one self-contained torch file per family."""
