"""What solvers are made of, and what makes parameters that can be stored (`Grid.finish`)."""
