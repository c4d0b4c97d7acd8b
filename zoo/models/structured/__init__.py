"""Matrices that are stored as factors: what forms there are, and the layers that hold them."""
