"""What can be searched: one file per space."""
