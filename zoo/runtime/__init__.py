"""What a device computes: exact integer and float executors of a graph."""
