"""Fast forms of decoding: optional, and equal to plain torch bit for bit."""
