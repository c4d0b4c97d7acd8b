"""The operators of TFLite and ONNX files, one file per group of kinds."""
