"""The Hub: pull from one, push to one, be one.

Other rooms use `exchange` (pull and push), `snapshots` (what was pulled), `where` (which hub),
`safety` and `vocabulary` (what may lie in a repository), and `server`, a hub of one's own.
`client`, `download` and `writing`, and all that `server` consists of, are this room's alone.

Nothing here unpickles, and nothing here executes what a repository holds.
"""
