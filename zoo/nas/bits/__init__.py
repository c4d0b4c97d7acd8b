"""Bits for each layer of a trained network: by allocation, and by search."""
