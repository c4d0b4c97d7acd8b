"""Fast forms of decoding: optional, and equal to plain torch to the bit."""
