"""A family in a package of its own: what CONTRIBUTING.md shows, and a test installs."""
