"""What may come out of a repository: which names, and which kinds of files.

The listing of a repository is written by whoever answers, so it is judged as a whole before
anything is fetched: one name that could reach outside the folder refuses the repository.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from zoo.errors import UnsafeFileError

# Ours is the file that records what was pulled; a repository must not bring its own.
RECORD = ".zoo-pulled.json"
MAX_FILES = 20_000
_WEIGHTS = {".safetensors", ".onnx", ".tflite", ".pte", ".gguf"}
_TEXT = {".json", ".md", ".txt", ".model", ".jinja", ".yaml", ".yml", ".toml", ".csv", ".tiktoken"}
_TEXT_NAMES = {"license", "notice", "copying"}
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz"}
# Files that Windows takes for devices, whatever their suffix.
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{name}{number}" for name in ("com", "lpt") for number in "0123456789¹²³"
}
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\<>:"|?*]')


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository, as its listing describes it.

    Attributes:
        path: with forward slashes.
        bytes: its size.
        sha256: of the content, for files that the Hub keeps as large ones; else None.
        git_sha1: git's id of the content, for the others; else None.

    """

    path: str
    bytes: int
    sha256: str | None = None
    git_sha1: str | None = None

    def __post_init__(self) -> None:
        known = self.sha256 is not None or self.git_sha1 is not None
        for digest, length in ((self.sha256, 64), (self.git_sha1, 40)):
            known = known and (
                digest is None or re.fullmatch(f"[0-9a-f]{{{length}}}", digest) is not None
            )
        if not known or self.bytes < 0:
            raise UnsafeFileError(
                f"the hub lists {self.path!r} without a size and a hash it can be verified by"
            )

    @property
    def digest(self) -> str:
        """The hash it is verified by, as a file name."""
        return f"sha256-{self.sha256}" if self.sha256 else f"git-{self.git_sha1}"


def check_path(path: str) -> None:
    """Accept a relative path that means the same file, inside its folder, on every system.

    Raises:
        UnsafeFileError: it is absolute, climbs, hides in `.git`, or cannot be a file somewhere.

    """
    parts = path.split("/")
    for part in parts:
        stem = part.split(".")[0].rstrip(" ").lower()
        if (
            part in ("", ".", "..")
            or _FORBIDDEN.search(part)
            or part.endswith((".", " "))
            or stem in _DEVICES
            or part.lower() in (".git", "git~1")
            or len(part.encode(errors="surrogatepass")) > 240
        ):
            raise UnsafeFileError(f"the repository holds a file named {path[:200]!r}; not fetched")
    if len(path) > 1000 or parts[0].lower() == RECORD or not path.isprintable():
        raise UnsafeFileError(f"the repository holds a file named {path[:200]!r}; not fetched")


def check_listing(paths: Sequence[str]) -> None:
    """Accept a listing whose files can lie beside each other on every system.

    Raises:
        UnsafeFileError: a name is refused, two differ only in case, or a file is also a folder.

    """
    seen: dict[str, str] = {}
    for path in paths:
        check_path(path)
        if path.casefold() in seen:
            raise UnsafeFileError(
                f"the repository holds {seen[path.casefold()]!r} and {path!r}, which are one file "
                "on some systems; not fetched"
            )
        seen[path.casefold()] = path
    for path in paths:
        for parent in PurePosixPath(path.casefold()).parents:
            if str(parent) in seen:
                raise UnsafeFileError(
                    f"the repository holds {str(parent)!r} both as a file and as a folder"
                )


def choose(
    files: Iterable[RemoteFile], repo: str, *, opaque: bool = False
) -> tuple[list[RemoteFile], list[str]]:
    """Return (files to fetch, paths left out): weights in safe formats, and plain text.

    Args:
        files: what the repository lists.
        repo: its id.
        opaque: it is a data set or a Space: all files but pickles are bytes that are fetched as
            they are and never opened here.

    Raises:
        UnsafeFileError: a name is refused, or the only weights are pickles, which run code of
            their author when they are opened.

    """
    files = list(files)
    check_listing([file.path for file in files])
    wanted = is_opaque if opaque else is_data
    chosen = [file for file in files if wanted(file.path)]
    left_out = [file.path for file in files if not wanted(file.path)]
    pickles = [path for path in left_out if _suffix(path) in _PICKLES]
    if not opaque and pickles and not any(_suffix(file.path) in _WEIGHTS for file in chosen):
        raise UnsafeFileError(
            f"the only weights of {repo} are pickles ({pickles[0]}), which run code when they are "
            "opened; ask its authors for safetensors (nothing was fetched)"
        )
    return chosen, left_out


def is_data(path: str) -> bool:
    """Say whether a file is of a kind that is fetched: weights in safe formats, plain text."""
    name = PurePosixPath(path).name
    return _suffix(path) in _WEIGHTS | _TEXT or name.split(".")[0].lower() in _TEXT_NAMES


def is_opaque(path: str) -> bool:
    """Say whether a file of a data set or a Space is fetched: anything but a pickle."""
    return _suffix(path) not in _PICKLES


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
