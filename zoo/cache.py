"""The zoo's own cache folder: what was prepared once and can be rebuilt."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path


def root() -> Path:
    """Return the cache folder: ZOO_CACHE, else `zoo` in the user's cache folder."""
    if chosen := os.environ.get("ZOO_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "zoo"


@dataclass(frozen=True)
class CacheEntry:
    """One thing in the cache: its kind, its folder, its size and the age of its last use."""

    kind: str
    path: Path
    size_bytes: int
    unused_days: float


def entries() -> list[CacheEntry]:
    """Return what the cache holds, the least recently used first."""
    kept = []
    for folder in root().glob("*/*"):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        idle = (time.time() - folder.stat().st_mtime) / 86_400
        kept.append(CacheEntry(folder.parent.name, folder, size, max(idle, 0.0)))
    return sorted(kept, key=lambda entry: -entry.unused_days)


def prune(unused_days: float = 0.0) -> list[CacheEntry]:
    """Delete entries unused for that many days, and what killed jobs left behind; return them."""
    gone = [entry for entry in entries() if entry.unused_days >= unused_days]
    for entry in gone:
        shutil.rmtree(entry.path)
    for orphan in root().glob("*/.*"):
        if orphan.is_dir() and time.time() - orphan.stat().st_mtime > 86_400:
            shutil.rmtree(orphan)
    return gone
