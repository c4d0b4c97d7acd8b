"""How a space is searched: one file per way."""
