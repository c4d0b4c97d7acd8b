"""The Hub: `client` talks to one, `store` keeps what was pulled, `server` is one.

Nothing here unpickles, and nothing here executes what a repository holds.
"""
