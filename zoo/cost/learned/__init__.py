"""Costs learned from a compiler's answers: the cycle model of each pass times a small factor."""
