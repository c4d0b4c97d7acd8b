"""Writers and readers of deployable files."""
