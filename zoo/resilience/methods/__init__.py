"""Compression methods for networks that faults or noise disturb; see `zoo.compression.contract`."""
