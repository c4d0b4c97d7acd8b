"""The folder of a search: what is searched, every trial, and which are under way.

```
search.json           what is searched, and within which limits
trials.jsonl          a line for each trial that is done
trials/0007/          a trial under way: what is tried, and its training
claims/0007.lock      held by the process that works on it
```

Any number of processes may work in one folder. Nothing that is done is lost in a kill; a trial
that was under way is taken up where its training was.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zoo.errors import MismatchError
from zoo.files import probe, read_json, write_bytes, write_json
from zoo.nas.searchers.contract import Attempt
from zoo.registry.codec import leaves

SEARCH, TRIALS = "search.json", "trials.jsonl"
_FORMAT = 1


class Study:
    """The folder of a search.

    Args:
        path: of the folder; it need not exist.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock")

    def open(self, identity: Mapping[str, Any], resume: bool) -> str:
        """Make the folder, or check that it is of the same search; return its id.

        Raises:
            MismatchError: it holds a search and `resume` is off, or another search.

        """
        probe(self.path)
        with self._lock:
            file = self.path / SEARCH
            if not file.is_file():
                if any(p.name != ".lock" for p in self.path.iterdir()):
                    raise MismatchError(
                        f"{self.path} holds other files, and no search; choose a new folder"
                    )
                facts = {"format_version": _FORMAT, "id": uuid.uuid4().hex, **identity}
                write_json(file, facts)
                return str(facts["id"])
            if not resume:
                raise MismatchError(
                    f"{self.path} already holds a search; add --resume to go on with it, or to "
                    "work on it together, or choose another folder"
                )
            known = read_json(file)
            self._check(known, identity)
            self._mend()
            return str(known["id"])

    def _check(self, known: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        if known.get("format_version") != _FORMAT:
            raise MismatchError(
                f"{self.path} holds a search of format {known.get('format_version')!r}; this zoo "
                f"reads {_FORMAT}"
            )
        if known.get("space") != identity["space"]:
            raise MismatchError(
                f"{self.path} holds a search of the space {known.get('space')!r}, not "
                f"{identity['space']!r}; choose another folder"
            )
        before, now = leaves(known), leaves(json.loads(json.dumps(identity)))
        keys = (key for key in {**before, **now} if key not in ("format_version", "id"))
        if key := next((key for key in keys if before.get(key) != now.get(key)), None):
            raise MismatchError(
                f"{self.path} holds a search with {key} = {before.get(key)!r}, not "
                f"{now.get(key)!r}; resume with the same, or choose another folder"
            )

    def _mend(self) -> None:
        """Remove a line that a kill cut off."""
        file = self.path / TRIALS
        if file.exists() and (content := file.read_bytes()) and not content.endswith(b"\n"):
            write_bytes(file, content[: content.rfind(b"\n") + 1])

    def trials(self) -> list[Attempt]:
        """Return the trials that are done, by number."""
        file = self.path / TRIALS
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        whole = (json.loads(line) for line in lines if line.endswith("\n"))
        return sorted(map(Attempt.from_json, whole), key=lambda trial: trial.number)

    def add(self, trial: Attempt) -> None:
        """Keep a trial; its folder goes."""
        line = json.dumps(trial.to_json(), allow_nan=False) + "\n"
        with self._lock, (self.path / TRIALS).open("a", encoding="utf-8") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.rmtree(self.folder(trial.number), ignore_errors=True)

    def folder(self, number: int) -> Path:
        """Return where a trial under way has its files."""
        return self.path / "trials" / f"{number:04d}"

    @contextmanager
    def claimed(self, most: int) -> Iterator[int | None]:
        """Lend the number of a trial below `most` that no other process works on, or None."""
        claims = self.path / "claims"
        claims.mkdir(exist_ok=True)
        done = {trial.number for trial in self.trials()}
        for number in (n for n in range(most) if n not in done):
            claim = FileLock(claims / f"{number:04d}.lock")
            try:
                claim.acquire(timeout=0)
            except Timeout:
                continue
            try:
                # Looked up again while it is held: it may have been done a moment ago.
                if number in {trial.number for trial in self.trials()}:
                    continue
                yield number
                return
            finally:
                claim.release()
        yield None
