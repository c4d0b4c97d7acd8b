"""The command's parser: it refuses in one line that names what is nearest to the word typed."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that tells its own unknown words, with near misses.

    Attributes:
        hint: what to type for all that it knows; "" for its own --help.

    """

    hint = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; refuse here what nobody knows, where the flags that are known are at hand."""
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(self._unknown(rest))
        return known, rest

    def error(self, message: str) -> NoReturn:
        """Print one line, and exit with 2."""
        self.exit(2, f"{self.prog}: {message} (type: {self.hint or f'{self.prog} --help'})\n")

    def _unknown(self, rest: Sequence[str]) -> str:
        flags = [word.split("=")[0] for word in rest if word.startswith("-")]
        if not flags:
            return f"{rest[0]!r} is one word too many"
        return f"unknown flag {flags[0]}{near(flags[0], self._option_string_actions)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        guess = near(str(value), known)
        kind = "command"
        if not isinstance(action, argparse._SubParsersAction):
            kind = "/".join(action.option_strings) or action.dest
        listed = "" if guess else f"; known: {', '.join(known)}"
        raise argparse.ArgumentError(None, f"unknown {kind} {value!r}{guess}{listed}")


def near(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the known words nearest to a word, or ""."""
    close = difflib.get_close_matches(word, sorted(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""
