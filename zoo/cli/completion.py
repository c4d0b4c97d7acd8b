"""Completion of the command's words in bash, zsh and fish, by argcomplete."""

import argparse


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, and exit."""
    import argcomplete

    argcomplete.autocomplete(parser)


def script(shell: str) -> str:
    """Return the script that a shell reads, e.g. `source <(zoo completion bash)`."""
    from argcomplete.shell_integration import shellcode

    return str(shellcode(["zoo"], shell=shell))
