"""The data set of costs: files of rows, made in any order, on any machine, after any interruption.

A shard is a function of the recipe of the set and of its number, and is written in one step; a run
that was killed goes on with the shards that are missing, and the bytes are those of an unbroken
run.
"""

import gzip
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from zoo.cost.networks.families import FAMILIES, network
from zoo.cost.networks.rows import Row, described, label
from zoo.deploy.tflite_write import serialize_tflite
from zoo.deploy.vela import NPUS, configuration
from zoo.deploy.vela_many import Compiler
from zoo.errors import MismatchError, MissingExtraError, UnknownNameError
from zoo.files import probe, read_json, write_bytes, write_json

FORMAT_VERSION = 2
RECIPE = "dataset.json"
SHARD_GRAPHS = 250

_LOG = logging.getLogger("zoo")


@dataclass(frozen=True, kw_only=True)
class CostRecipe:
    """All that the rows of a set depend on.

    Attributes:
        seed: of the random networks.
        targets: that they are compiled for.
        vela: version of the compiler.
        families: names of `FAMILIES`, in their order.
        shard_graphs: networks in a file.
        format_version: of the rows.

    """

    seed: int
    targets: tuple[str, ...]
    vela: str
    families: tuple[str, ...] = tuple(FAMILIES)
    shard_graphs: int = SHARD_GRAPHS
    format_version: int = FORMAT_VERSION


def recipe(targets: Sequence[str], seed: int) -> CostRecipe:
    """Return the recipe of a set for some targets, with the compiler that is installed.

    Raises:
        UnknownNameError: Vela has no configuration for a target.
        MissingExtraError: ethos-u-vela is not installed.
        MismatchError: the seed is negative, or there is no target.

    """
    if not targets:
        raise MismatchError("a data set needs a target, e.g. --target ethos-u55-128")
    for name in targets:
        if name not in NPUS:
            expected = f"one that Vela compiles for: {', '.join(NPUS)}"
            raise UnknownNameError.near("target", name, NPUS, expected)
    if seed < 0:
        raise MismatchError(f"seed is {seed}; expected 0 or more")
    if importlib.util.find_spec("ethosu") is None:
        raise MissingExtraError.of("ethos-u-vela", "tflite")
    version = importlib.metadata.version("ethos-u-vela")
    return CostRecipe(seed=seed, targets=tuple(dict.fromkeys(targets)), vela=version)


def shard(given: CostRecipe, first: int, count: int) -> bytes:
    """Return a file: the rows of networks `first` to `first + count`, as compressed JSON lines."""
    with ExitStack() as stack:
        compilers = []
        for target in given.targets:
            settings, clock_hz = configuration(target)
            compilers.append((target, stack.enter_context(Compiler(settings)), clock_hz))
        spent = dict.fromkeys(("drawing", *given.targets), 0.0)
        lines, waiting = [], _drawn(given.seed, first, spent)
        for index in range(first, first + count):
            drawn = waiting
            for _, compiler, _ in compilers:
                compiler.send(drawn.content)
            if index + 1 < first + count:  # the next one is drawn while this one is compiled
                waiting = _drawn(given.seed, index + 1, spent)
            row = _row(given.seed, drawn, compilers, spent)
            lines.append(json.dumps(row, separators=(",", ":")))
    for part, seconds in spent.items():
        _LOG.info("%s: %.1f CPU-ms a network", part, 1e3 * seconds / count)
    text = "".join(f"{line}\n" for line in lines)
    return gzip.compress(text.encode(), 6, mtime=0)


@dataclass(frozen=True)
class _Drawn:
    """A network: the row's description of it, its file, and its number of operators."""

    row: Row
    content: bytes
    operators: int


def _drawn(seed: int, index: int, spent: dict[str, float]) -> _Drawn:
    start = time.process_time()
    family, graph = network(seed, index)
    row = {"id": index, "family": family, "space": FAMILIES[family][0], **described(graph)}
    drawn = _Drawn(row, serialize_tflite(graph), len(graph.ops))
    spent["drawing"] += time.process_time() - start
    return drawn


def _row(
    seed: int,
    drawn: _Drawn,
    compilers: Sequence[tuple[str, Compiler, float]],
    spent: dict[str, float],
) -> Row:
    """Return a network's row, from what the compilers were sent; `spent` grows by seconds."""
    labels, refused = [], []
    for target, compiler, clock_hz in compilers:
        try:
            found = compiler.answer(f"network {drawn.row['id']} of seed {seed} for {target}")
        except MismatchError as error:
            refused.append(str(error))
            continue
        spent[target] += found["cpu_s"]
        labels.append(label(target, found, clock_hz, drawn.operators))
    return {**drawn.row, "labels": labels, "refused": refused}


Task = tuple[CostRecipe, int, int]
Work = Callable[[CostRecipe, int, int], bytes]


class Executor(Protocol):
    """Where shards are made: it gives (task's number, file) in any order."""

    def __call__(self, work: Work, tasks: Sequence[Task]) -> Iterator[tuple[int, bytes]]:
        """Do all tasks."""


def processes(jobs: int) -> Executor:
    """Return an executor of some processes of this machine; one of them is this one."""

    def run(work: Work, tasks: Sequence[Task]) -> Iterator[tuple[int, bytes]]:
        if jobs == 1:
            yield from ((place, work(*task)) for place, task in enumerate(tasks))
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            waiting = {pool.submit(work, *task): place for place, task in enumerate(tasks)}
            for done in as_completed(waiting):
                yield waiting[done], done.result()

    return run


def cluster() -> Executor:
    """Return an executor on the machines of a Ray cluster; without an address, on this one.

    Raises:
        MissingExtraError: ray is not installed.

    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError.of("ray", "cluster")
    ray: Any = importlib.import_module("ray")

    def run(work: Work, tasks: Sequence[Task]) -> Iterator[tuple[int, bytes]]:
        ray.init(ignore_reinit_error=True)
        remote = ray.remote(work)
        waiting = {remote.remote(*task): place for place, task in enumerate(tasks)}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting))
            yield waiting.pop(done), ray.get(done)

    return run


def name_of(place: int) -> str:
    """Return the path of a shard in its set."""
    return f"data/train-{place:05d}.jsonl.gz"


def write(given: CostRecipe, graphs: int, out: Path, run: Executor) -> int:
    """Make what is missing of a set; return how many shards were made.

    Args:
        given: the recipe.
        graphs: networks in all; a set that has fewer grows.
        out: folder of the set, new or one of the same recipe.
        run: where the work is done.

    Raises:
        MismatchError: fewer than one network, or `out` holds another set.

    """
    if graphs < 1:
        raise MismatchError(f"{graphs} graphs; expected 1 or more")
    _check(given, out)
    probe(out)
    write_json(out / RECIPE, _json(given))
    for left in (out / "data").glob(".train-*"):  # of a run that was killed
        left.unlink()
    size = given.shard_graphs
    tasks: list[Task] = []
    for first in range(0, graphs, size):
        count = min(size, graphs - first)
        if not _whole(out / name_of(first // size), count):
            tasks.append((given, first, count))
    for done, (place, content) in enumerate(run(shard, tasks), start=1):
        write_bytes(out / name_of(tasks[place][1] // size), content)
        _LOG.info("%s of %s shards", done, len(tasks))
    return len(tasks)


def _json(given: CostRecipe) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(given)))


def _check(given: CostRecipe, out: Path) -> None:
    if not (out / RECIPE).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise MismatchError(f"{out} is not a data set of costs; expected a new folder")
        return
    have, want = read_json(out / RECIPE), _json(given)
    for field in want:
        if have.get(field) != want[field]:
            raise MismatchError(
                f"{out} holds another data set: its {field} is {have.get(field)!r}, not "
                f"{want[field]!r}; give another folder"
            )


def _whole(path: Path, count: int) -> bool:
    """Return whether a shard is there with all its rows; a damaged one is made again."""
    if not path.exists():
        return False
    try:
        with gzip.open(path) as stream:
            found = sum(1 for _ in stream)
    except (OSError, EOFError):
        _LOG.warning("%s is damaged and is made again", path)
        return False
    return found >= count


def rows(folder: Path) -> Iterator[Row]:
    """Give the rows of a set, in order.

    Raises:
        MismatchError: it is no such set, has a newer format, or a shard is damaged.

    """
    if not (folder / RECIPE).is_file():
        raise MismatchError(f"{folder} is not a data set of costs; make one: zoo cost dataset")
    version = read_json(folder / RECIPE).get("format_version")
    if version != FORMAT_VERSION:
        raise MismatchError(
            f"{folder} has format {version}; this version of the zoo reads {FORMAT_VERSION}"
        )
    for path in sorted((folder / "data").glob("train-*.jsonl.gz")):
        yield from _lines(path)


def _lines(path: Path) -> Iterable[Row]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]
    except (OSError, EOFError, ValueError) as error:
        raise MismatchError(
            f"{path} is damaged ({error}); run zoo cost dataset again, which makes it anew"
        ) from error
