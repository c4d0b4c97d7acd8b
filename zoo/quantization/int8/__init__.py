"""Eight-bit integers: learned from a few inputs after training, or trained for."""
