"""Attacks on classifiers of pictures, one a file: small changes that make them err."""
