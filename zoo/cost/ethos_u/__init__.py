"""How Arm's Ethos-U55 and U65 spend their cycles: blocks, passes, memory traffic, weight codec.

A network becomes passes of the accelerator (`passes`), each pass is cut into blocks that fit the
accelerator's own buffer (`blocks`), weights are counted as encoded (`encoding`), and memories are
busy beside the arithmetic (`schedule`). The rules are those by which Arm's compiler estimates
itself, as its sources (ethos-u-vela, Apache-2.0) and its per-operator reports show them.
"""
