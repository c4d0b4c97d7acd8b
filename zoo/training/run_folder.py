"""A training run's folder: its log, the state to resume from, and which runs may use it.

```
log.jsonl           a line of figures every so many steps
state-<step>/       what to resume from; only the newest is kept, whole or absent
```
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import MismatchError
from zoo.files import sync, write_bytes, write_json
from zoo.registry.codec import leaves
from zoo.registry.layout import CARD, LICENSE

LOG, FACTS = "log.jsonl", "run.json"
_STATE = "state-"


class RunFolder:
    """The folder of one run; only the main process writes.

    Args:
        path: the folder; it need not exist.
        result: name of the file that says a result is in it.

    """

    def __init__(self, path: Path, result: str) -> None:
        self.path, self.result = path, result

    @property
    def has_result(self) -> bool:
        """Whether there is a result, from a finished run or one under way."""
        return (self.path / self.result).exists()

    def newest(self, resume: bool) -> Path | None:
        """Return the state to resume from, or None to start.

        Raises:
            MismatchError: the folder is in use and `resume` is off, it holds only a result, or a
                run would overwrite what is in it.

        """
        states = sorted(self.path.glob(f"{_STATE}*"))
        if resume and states:
            return states[-1]
        if resume and self.has_result:
            raise MismatchError(f"{self.path} holds a checkpoint but no state to resume from")
        used = states or self.has_result or (self.path / LOG).exists()
        if used and not resume:
            raise MismatchError(
                f"{self.path} already holds a run; add --resume to go on with it, or choose "
                "another folder"
            )
        if not used and (lost := [n for n in (CARD, LICENSE) if (self.path / n).exists()]):
            raise MismatchError(
                f"{self.path} holds no run, and one would overwrite its {' and '.join(lost)}; "
                "choose another folder"
            )
        return None

    def check(self, state: Path, ours: Mapping[str, Any]) -> None:
        """Refuse a state with other settings, data or processes, naming what differs.

        Raises:
            MismatchError: the identity that the state was written with is not `ours`.

        """
        theirs = self.facts(state)["identity"]
        if theirs == ours:
            return
        name = ours["recipe"]["name"]
        if theirs["recipe"]["name"] != name:
            difference = f"recipe {theirs['recipe']['name']!r}, not {name!r}"
        else:
            before, now = leaves(theirs), leaves(ours)
            for part in ("init", "teacher"):  # weights are known by digest: their names may change
                label, digest = f"recipe.train.{part}", f"recipe.weights.{part}"
                known = digest in before and digest in now
                for facts in (before, now):
                    facts.pop(label if known else digest, None)
            # A field that a newer version added and that is still unset makes no difference.
            new = {k for k in now.keys() - before.keys() if not now[k]}
            changed = (k for k in {**before, **now} if before.get(k) != now.get(k))
            key = next((k for k in changed if k not in new), None)
            if key is None:
                return
            difference = f"{key} = {before.get(key)!r}, not {now.get(key)!r}"
        raise MismatchError(
            f"{self.path} was trained with {difference}; resume with the same settings, or start "
            "in another folder"
        )

    @staticmethod
    def facts(state: Path) -> dict[str, Any]:
        """Return what a state says about itself."""
        facts: dict[str, Any] = json.loads((state / FACTS).read_text(encoding="utf-8"))
        return facts

    def clear(self) -> None:
        """Remove what a run that was killed before its first state may have left."""
        (self.path / LOG).unlink(missing_ok=True)
        self.remove_orphans()

    def remove_orphans(self) -> None:
        """Remove states that were being written when the run was killed."""
        for orphan in self.path.glob(f".{_STATE}*"):
            shutil.rmtree(orphan, ignore_errors=True)

    def unfinished(self, step: int) -> Path:
        """Return where the state of a step is written until it is whole."""
        return self.path / f".{_STATE}{step:08d}"

    def keep(self, step: int, facts: Mapping[str, Any]) -> None:
        """Make the unfinished state of a step the one to resume from; older ones go after it."""
        temporary, final = self.unfinished(step), self.path / f"{_STATE}{step:08d}"
        write_json(temporary / FACTS, facts)
        for file in temporary.rglob("*"):
            sync(file)
        temporary.rename(final)
        sync(self.path)
        for old in self.path.glob(f"{_STATE}*"):
            if old != final:
                shutil.rmtree(old)

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with (self.path / LOG).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def cut_log(self, step: int) -> None:
        """Remove the lines after a step, which will come again, and a line cut off by a kill."""
        log = self.path / LOG
        if log.exists():
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = (line for line in lines if line.endswith("\n"))
            write_bytes(log, "".join(x for x in kept if json.loads(x)["step"] <= step).encode())
