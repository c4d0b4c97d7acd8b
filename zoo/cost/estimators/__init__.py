"""Ways to know a latency, one file each; a file is found by being here."""
