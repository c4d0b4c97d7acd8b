"""Compression methods that search."""
