"""Operators without division and root: PEANO-ViT (arXiv 2406.14854), in floats and in integers."""
