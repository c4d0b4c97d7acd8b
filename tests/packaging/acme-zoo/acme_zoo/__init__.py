"""A family in a package of its own: what docs/extend/family.md shows, and a test installs."""
