"""Compression methods that change a network's structure: one file each; see the contract."""
