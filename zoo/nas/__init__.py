"""Architecture search: which network, before one is trained."""
