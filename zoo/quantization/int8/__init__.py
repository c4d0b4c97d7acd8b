"""Eight-bit integers: from a few inputs after training, or by training for them."""
