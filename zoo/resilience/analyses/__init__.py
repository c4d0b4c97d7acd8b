"""The analyses, one in each file; see `zoo.resilience.contract`."""
