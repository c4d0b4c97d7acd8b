"""Purifiers, one a file: what pictures pass on the way to a classifier, to lose an attack."""
