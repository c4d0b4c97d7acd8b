"""Restructurable activation networks (RAN, arXiv 2208.08562)."""
