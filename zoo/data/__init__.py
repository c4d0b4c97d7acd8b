"""Reading, checking and preparing what networks are fed with: pictures, text."""
