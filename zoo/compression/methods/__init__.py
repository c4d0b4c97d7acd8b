"""Compression methods that change what a network is made of: one file each; see the contract."""
