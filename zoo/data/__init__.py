"""Reading, checking and preparing the inputs of networks: pictures and text."""
