"""Compression: making a model smaller. Methods are the files in a folder `methods`."""
