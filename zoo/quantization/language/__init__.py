"""Language models, block by block."""
