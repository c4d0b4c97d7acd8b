"""The steps of solvers, and those that make parameters storable (`Grid.finish`)."""
