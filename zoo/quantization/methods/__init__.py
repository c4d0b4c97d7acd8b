"""Compression methods that quantize: one file each; see `zoo.compression.contract`."""
