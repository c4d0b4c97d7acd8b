"""The graph IR of a deployed module: traced, lowered, folded, rewritten, checked."""
