"""What faults, noise and attacks do to a deployed network, and what protecting it costs.

Each analysis is a file of `zoo.resilience.analyses`; see `zoo.resilience.contract`.
"""
