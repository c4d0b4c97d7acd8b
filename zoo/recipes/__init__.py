"""Recipes, torch-free, one file per family; a file is found by being here."""
