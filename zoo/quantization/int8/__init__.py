"""Eight-bit integers: chosen from a few inputs after training, or trained for."""
