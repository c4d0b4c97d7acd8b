"""The command `zoo target`: what this machine is, as a target for estimates."""

from pathlib import Path

from zoo.cli.printing import Arguments, Command
from zoo.errors import MismatchError


def add(command: Command) -> None:
    """Add the command to the command line."""
    sub = command("target", _target, "measure this machine as a target for zoo estimate")
    sub.add_argument("action", choices=["measure"])
    sub.add_argument("--out", metavar="FILE.toml", default="this-machine.toml")


def _target(args: Arguments) -> None:
    """Write the TOML of this machine."""
    from zoo.cost.machine import measured
    from zoo.cost.target import parse
    from zoo.files import write_bytes

    path = Path(args.out)
    if path.suffix != ".toml":
        raise MismatchError(f"--out {path}; expected a name that ends in .toml")
    text = measured(path.stem)
    parse(path.stem, text)
    write_bytes(path, text.encode())
    shown = path if path.is_absolute() else f"./{path}"
    print(f"{path}: zoo estimate REF --target {shown}")
