"""Language models in the formats of other runtimes: GGUF, GPTQ, compressed-tensors, ONNX."""
