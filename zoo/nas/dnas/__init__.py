"""The differentiable engine: samplers, costs, regularisers and selections, to be combined."""
