"""What a push sends: the files of a checkpoint, another library's folder, a Space or data."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.cards import check as card_check
from zoo.cards.model import render
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError
from zoo.files import sha256
from zoo.hub.safety import RECORD, check_listing, is_data, is_opaque
from zoo.registry.checkpoint import Checkpoint
from zoo.registry.layout import CARD, CONFIG, FACTS, METRICS

log = logging.getLogger("zoo")

Files = dict[str, bytes | Path]
LICENSE = "LICENSE"
SDKS = ("gradio", "docker", "static", "streamlit")  # of a Space
ADAPTER = "adapter.json"  # marks the folder of a sparse adapter


def files_of_checkpoint(checkpoint: Checkpoint, repo: str) -> Files:
    """Return what a checkpoint's repository holds, once the weights and the card are checked.

    A card that was edited by hand is sent as it is; any other is rendered for `repo`.

    Raises:
        UnsafeFileError: the weights are not those the config describes, or a text holds a token.
        MismatchError: the card is wrong.

    """
    path = checkpoint.path
    files: Files = {}
    for name, facts in checkpoint.config["files"].items():
        check_listing([name])
        files[name] = _regular(path / name)
        if sha256(path / name) != facts["sha256"]:
            raise UnsafeFileError(f"{path / name} is not the file that {CONFIG} describes")
    for name in (CONFIG, FACTS, METRICS):
        if (path / name).exists():
            files[name] = _regular(path / name)
    text = _card(checkpoint, repo)
    if card_check.front_matter(text).get("license_link") == LICENSE:
        files[LICENSE] = _license(checkpoint)
    files[CARD] = text.encode()
    _refuse_secrets(files)
    return files


def _card(checkpoint: Checkpoint, repo: str) -> str:
    """Return the card to send, checked."""
    file = checkpoint.path / CARD
    own = _regular(file).read_text(encoding="utf-8") if file.exists() else None
    came_from = _config(checkpoint.path / RECORD).get("repo")
    rendered = {render(checkpoint, repo=name) for name in (None, repo, came_from)}
    edited = own is not None and own not in rendered
    text = own if edited and own is not None else render(checkpoint, repo=repo)
    if wrong := card_check.problems(text, checkpoint):
        raise MismatchError(
            f"the card {file} is wrong: {'; '.join(wrong)}; correct it, or delete it to have it "
            "written anew"
        )
    if edited:
        log.info("%s was edited by hand: it is sent as it is", file)
    return text


def _license(checkpoint: Checkpoint) -> bytes | Path:
    if (checkpoint.path / LICENSE).exists():
        return _regular(checkpoint.path / LICENSE)
    data = checkpoint.config["data"].get("source", "data that is not recorded")
    return (
        f"Licence of these weights: {checkpoint.license}\n\nIt is that of what they were trained "
        f"on: {data}.\nThe code that makes and uses them, edge-zoo, is Apache-2.0.\n"
    ).encode()


def files_of_folder(path: Path, repo: str) -> Files:
    """Return what is sent of a folder that transformers, peft or another library saved.

    Raises:
        MissingWeightsError: no such folder, or no weights in it that are safe to publish.
        UnsafeFileError: a symbolic link, a name no other system can hold, or a token in a text.
        MismatchError: the card's metadata is wrong.

    """
    if (path / ADAPTER).is_file():
        return _files_of_adapter(path, repo)
    files = _chosen(path, is_data)
    if not any(name.endswith((".safetensors", ".onnx", ".tflite")) for name in files):
        raise MissingWeightsError(
            f"{path} holds no checkpoint and no weights as safetensors; expected a folder made by "
            "zoo train or by save_pretrained"
        )
    if CARD not in files:
        files[CARD] = _plain_card(path, repo).encode()
    _check(path, files)
    return files


def files_of_space(path: Path) -> tuple[Files, str]:
    """Return what is sent of a Space's folder, and its sdk. All but pickles are opaque bytes.

    Raises:
        MissingWeightsError: no such folder.
        UnsafeFileError: as for `files_of_folder`.
        MismatchError: no README.md that names the sdk.

    """
    files = _chosen(path, is_opaque)
    sdk = _matter(_text(files.get(CARD, b""))).get("sdk")
    if sdk not in SDKS:
        raise MismatchError(
            f"{path / CARD} names no sdk; a Space's README.md begins with metadata between two "
            f"lines of three hyphens, with sdk: one of {', '.join(SDKS)}"
        )
    _check(path, files)
    return files, str(sdk)


def files_of_dataset(path: Path, repo: str) -> Files:
    """Return what is sent of a folder of data; all but pickles are opaque bytes."""
    files = _chosen(path, is_opaque)
    if not files:
        raise MissingWeightsError(f"{path} is not a folder with files to publish")
    if CARD not in files:
        files[CARD] = f"---\ntags:\n- edge-zoo\n---\n\n# {repo.rpartition('/')[2]}\n".encode()
    _check(path, files)
    return files


def _chosen(path: Path, wanted: Callable[[str], bool]) -> Files:
    """Return the files of a folder that are sent; hidden ones and Python's caches never are."""
    paths = sorted(file for file in path.rglob("*") if not file.is_dir() or file.is_symlink())
    files: Files = {}
    for file in paths:
        name = file.relative_to(path).as_posix()
        parts = name.split("/")
        if any(part.startswith(".") for part in parts) or "__pycache__" in parts:
            continue
        if wanted(name):
            files[name] = _regular(file)
        else:
            log.info("%s is not sent: neither weights in a safe format nor text", name)
    check_listing(list(files))
    return files


def _matter(text: str) -> dict[str, Any]:
    try:
        return card_check.front_matter(text)
    except ValueError:
        return {}


def _check(path: Path, files: Files) -> None:
    if wrong := card_check.problems(_text(files[CARD])):
        raise MismatchError(f"the card {path / CARD} is wrong: {'; '.join(wrong)}")
    _refuse_secrets(files)


def _files_of_adapter(path: Path, repo: str) -> Files:
    """Return what the repository of a sparse adapter holds: no states, no log of its training.

    A card that was edited by hand is sent as it is; any other is rendered for `repo`.
    """
    from zoo.adapters.folder import FILE, PEFT_FILES, AdapterFolder
    from zoo.cards import adapter as card

    source = AdapterFolder.read(path)  # the file is the one that the config describes
    names = (ADAPTER, FILE, LICENSE, *PEFT_FILES)
    files: Files = {name: _regular(path / name) for name in names if (path / name).exists()}
    own = _text(_regular(path / CARD)) if (path / CARD).exists() else None
    if FILE in files and own in (None, card.render(source)):
        own = card.render(source, repo=repo)
    files[CARD] = own.encode() if own is not None else _plain_card(path, repo).encode()
    if wrong := card_check.problems(_text(files[CARD]), source if FILE in files else None):
        raise MismatchError(f"the card {path / CARD} is wrong: {'; '.join(wrong)}")
    _refuse_secrets(files)
    return files


def _plain_card(path: Path, repo: str) -> str:
    """Return a minimal card: what the saved configuration says about library and base model."""
    import yaml

    matter: dict[str, Any] = {"tags": ["edge-zoo"]}
    adapter = _config(path / "adapter_config.json")
    base = adapter.get("base_model_name_or_path")
    if adapter.get("peft_type"):
        matter["library_name"] = "peft"
        if isinstance(base, str) and not Path(base).exists() and base.count("/") <= 1:
            matter |= {"base_model": base, "base_model_relation": "adapter"}
    elif _config(path / CONFIG).get("model_type"):
        matter["library_name"] = "transformers"
    name = repo.rpartition("/")[2]
    return f"---\n{yaml.safe_dump(matter, sort_keys=False)}---\n\n# {name}\n"


def _config(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _regular(path: Path) -> Path:
    """Return the path of a file that lies in the folder itself."""
    if path.is_symlink() or not path.is_file():
        raise UnsafeFileError(
            f"{path} is a symbolic link or not a regular file; what it points to may not be meant "
            "to be published: copy it into the folder"
        )
    return path


def _text(content: bytes | Path) -> str:
    data = content if isinstance(content, bytes) else content.read_bytes()
    return data.decode(errors="replace")


def _refuse_secrets(files: Files) -> None:
    """Refuse texts that hold a token: a repository never forgets."""
    for name, content in files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        small = size < 1 << 20 and not name.endswith((".safetensors", ".onnx", ".tflite"))
        if small and card_check.SECRET.search(_text(content)):
            raise UnsafeFileError(
                f"{name} holds what looks like a token of the Hub; remove it and revoke that token"
            )
