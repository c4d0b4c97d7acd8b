"""From a module to what devices run: the graph IR and the writers of deployable files."""
