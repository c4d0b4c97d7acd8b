"""UDC: bits and sparsity of each layer, learned with its weights, for a device's weight code."""
