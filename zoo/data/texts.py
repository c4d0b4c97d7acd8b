"""Texts by name: a file, a folder of files, a set that has a name here, or a data set of the Hub.

What is not one file already becomes one in the cache, so that it is fetched once and every later
run, also without a network, reads the same bytes.
"""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import cache
from zoo.errors import HubError, MismatchError, MissingExtraError, UnknownNameError
from zoo.files import replacing

SUFFIXES = (".txt", ".md", ".text", ".gz")
MOST = 16 << 20  # characters of a data set: more than any calibration reads
COLUMNS = ("text", "content")
_WAIT = 10  # seconds for the Hub to answer at all
EXPECTED = "expected a text file, a folder of them, a name ({}), or a Hub data set: org/name"


@dataclass(frozen=True)
class Named:
    """A text with a name: its data set, the configuration, and the splits to learn and judge by."""

    repo: str
    config: str | None
    train: str
    test: str


NAMES = {
    "wikitext2": Named("Salesforce/wikitext", "wikitext-2-raw-v1", "train", "test"),
    "c4": Named("allenai/c4", "en", "train", "validation"),
    "tinystories": Named("roneneldan/TinyStories", None, "train", "validation"),
}


def text_file(source: str | Path, *, test: bool = False) -> Path:
    """Return the file that holds a text.

    Args:
        source: a file; a folder, whose texts are joined in the order of their names; one of
            `NAMES`; or `org/name[:configuration[:split]]`, whose rows are joined by empty lines.
        test: take the split to judge by, not the one to learn from.

    Raises:
        MismatchError: there is no such file, no text in the folder, or no text column.
        UnknownNameError: it is neither here nor a name that is known.
        HubError: the data set cannot be had.
        MissingExtraError: `datasets` is not installed.

    """
    path, name = Path(source).expanduser(), str(source)
    if path.is_file() or path.suffix in SUFFIXES or name.startswith((".", "/", "~")):
        return _folder(path) if path.is_dir() else path
    if path.is_dir():
        return _folder(path)
    if known := NAMES.get(name):
        split = known.test if test else known.train
        return _data_set(known.repo, known.config, split, f"{name}.{split}")
    repo, *parts = name.split(":")
    if repo.count("/") != 1 or len(parts) > 2 or path.is_absolute():
        raise UnknownNameError.near("text", name, NAMES, EXPECTED.format(", ".join(NAMES)))
    config, split = (parts + [""] * 2)[:2]
    split = split or ("test" if test else "train")
    label = ".".join([repo.replace("/", "--"), *([config] if config else []), split])
    return _data_set(repo, config or None, split, label)


def _folder(path: Path) -> Path:
    """Return the texts of a folder as one file."""
    from zoo.data.text import read_text  # needs torch, which a missing file should not wait for

    files = sorted(f for f in path.rglob("*") if f.is_file() and f.suffix in SUFFIXES)
    if not files:
        raise MismatchError(f"{path} holds no text ({', '.join(SUFFIXES)}); name a file instead")
    whole = "\n\n".join(read_text(file).strip("\n") for file in files) + "\n"
    return _kept(path.resolve().name, whole)


def _kept(name: str, whole: str) -> Path:
    """Write a text into the cache under its digest; return the file."""
    data = whole.encode()
    place = cache.root() / "texts" / hashlib.sha256(data).hexdigest()[:32] / name
    if not place.is_file():
        with replacing(place) as temporary:
            temporary.write_bytes(data)
    return place


def _data_set(repo: str, config: str | None, split: str, name: str) -> Path:
    """Return the first `MOST` characters of a data set's split as a file, fetched once."""
    key = hashlib.sha256(repr((repo, config, split)).encode()).hexdigest()[:32]
    place = cache.root() / "texts" / key / name
    if place.is_file():
        return place
    rows = _rows(repo, config, split)
    with replacing(place) as temporary, temporary.open("w", encoding="utf-8") as stream:
        written = 0
        for text in rows:
            stream.write(f"{text}\n\n")
            if (written := written + len(text)) >= MOST:
                break
        if not written:
            raise MismatchError(f"the split {split!r} of data set {repo!r} holds no text")
    return place


def _rows(repo: str, config: str | None, split: str) -> Iterable[str]:
    """Return the texts of a data set, streamed."""
    try:
        import datasets
        from huggingface_hub import HfApi
    except ImportError:
        raise MissingExtraError.of("datasets", "train") from None
    instead = "without it, type the path of a text file, or of a folder of them: --data ./FILE.txt"
    try:
        HfApi().dataset_info(repo, timeout=_WAIT)  # `datasets` would try for half a minute
        rows: Any = iter(datasets.load_dataset(repo, config, split=split, streaming=True))
        first = next(rows)
    except StopIteration:
        return ()
    except Exception as error:  # they raise many errors without a common base
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise HubError(f"data set {repo!r} cannot be had from the Hub: {said[0]}; {instead}") from (
            error
        )
    column = next((c for c in COLUMNS if isinstance(first.get(c), str)), None)
    if column is None:
        raise MismatchError(
            f"data set {repo!r} has columns {list(first)}; expected text in one of "
            f"{', '.join(COLUMNS)}"
        )
    return (row[column] for row in itertools.chain([first], rows))
