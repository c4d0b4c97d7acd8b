"""The operator kinds, one file per group: how each is traced, lowered and checked."""
