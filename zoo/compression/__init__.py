"""Compression: what makes a model smaller. Methods are found by being in a folder `methods`."""
