"""How long a test waits for another process: a bound on what hangs, and on nothing else."""

# A process that takes half a minute on an idle machine has taken over five on a busy one, and was
# right. What hangs is found as surely after twenty-five minutes; speed is for benchmarks to judge.
HANGS_SECONDS = 1500
