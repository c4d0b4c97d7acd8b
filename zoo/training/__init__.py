"""One visible training loop, and its parts."""
