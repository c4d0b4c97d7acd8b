"""A tokenizer of the library tokenizers as llama.cpp reads it from a file: and which it can have.

llama.cpp knows how a text is cut before bytes are paired by a name; `CUTS` has what stands behind
the names, in the words of `tokenizer.json`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import MismatchError, MissingWeightsError
from zoo.files import read_json

FILE, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(digits: str) -> dict[str, Any]:
    pattern = {"Regex": _WORDS % digits}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


_BYTES = {"type": "ByteLevel", "add_prefix_space": False}
# What comes before pairing, by llama.cpp's name, and whether words that are tokens stay whole.
CUTS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "gpt-2": ([{**_BYTES, "use_regex": True}], False),
    "smollm": (
        [{"type": "Digits", "individual_digits": True}, {**_BYTES, "use_regex": True}],
        False,
    ),
    "llama-bpe": ([_split("{1,3}"), {**_BYTES, "use_regex": False}], True),
    "qwen2": ([_split(""), {**_BYTES, "use_regex": False}], False),
}
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6


def add_tokenizer(writer: Any, folder: Path, rows: int) -> None:
    """Write the tokenizer in a folder of transformers.

    Args:
        writer: a `gguf.GGUFWriter`.
        folder: with `tokenizer.json`.
        rows: of the embedding; those without a token get a name of their own.

    Raises:
        MissingWeightsError: there is none.
        MismatchError: llama.cpp has none like it.

    """
    content = _read(folder)
    words = content["model"]
    names, kinds = _tokens(content, rows, folder)
    spaced = _spaced(content, folder)
    if spaced is None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(cut_of(content, folder))
        writer.add_token_list(names)
        writer.add_token_types(kinds)
        writer.add_token_merges([" ".join(pair) for pair in _merges(words)])
        writer.add_add_space_prefix(False)
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(names)
        writer.add_token_scores(_scores(content, names, folder))
        writer.add_token_types(kinds)
        writer.add_add_space_prefix(spaced)
    _add_special(writer, content, folder)


def _read(folder: Path) -> dict[str, Any]:
    if not (folder / FILE).is_file():
        raise MissingWeightsError(
            f"{folder} has no {FILE}, and llama.cpp needs the tokenizer in its file; copy it from "
            "the base model's folder, or save it there with transformers, "
            "AutoTokenizer.from_pretrained(BASE).save_pretrained(DIR)"
        )
    from tokenizers import Tokenizer

    content = read_json(folder / FILE)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        raise MismatchError(
            f"{folder / FILE} holds a tokenizer of the type {kind!r}; only byte pairs (BPE) are "
            "written as GGUF"
        )
    try:
        Tokenizer.from_file(str(folder / FILE))
    except Exception as error:  # the library's errors have no class of their own
        raise MismatchError(f"{folder / FILE} holds no tokenizer: {error}") from error
    return content


def _merges(words: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (p.split(" ", 1) if isinstance(p, str) else p for p in words["merges"])
    return [(left, right) for left, right in pairs]


def _tokens(content: Mapping[str, Any], rows: int, folder: Path) -> tuple[list[str], list[int]]:
    """Return the names of all rows, and what they are."""
    words, unknown = content["model"], content["model"].get("unk_token")
    by_row = {row: (name, _NORMAL) for name, row in words["vocab"].items()}
    for row, (name, _) in by_row.items():
        if words.get("byte_fallback") and len(name) == 6 and name.startswith("<0x"):
            by_row[row] = (name, _BYTE)
        elif name == unknown and words.get("byte_fallback"):
            by_row[row] = (name, _UNKNOWN)
    for token in content.get("added_tokens", []):
        name, row = token["content"], token["id"]
        kind = _CONTROL if token.get("special") else _USER
        kept = by_row.get(row, (name, _NORMAL))[1]
        by_row[row] = (name, kept if kept == _UNKNOWN else kind)
    if (highest := max(by_row)) >= rows:
        raise MismatchError(
            f"{folder / FILE} has token {highest}, and the model's embedding has {rows} rows; it "
            "is another model's tokenizer"
        )
    found = [by_row.get(row, (f"[PAD{row}]", _UNUSED)) for row in range(rows)]
    return [name for name, _ in found], [kind for _, kind in found]


def cut_of(content: Mapping[str, Any], folder: Path) -> str:
    """Return llama.cpp's name of what a tokenizer does before it pairs bytes.

    Raises:
        MismatchError: it has none.

    """
    # llama.cpp leaves texts as they come; those that are not composed are rare
    _refuse_others(_steps(content.get("normalizer"), "normalizers"), ("NFC",), folder)
    steps = [_bare(step) for step in _steps(content.get("pre_tokenizer"), "pretokenizers")]
    whole = bool(content["model"].get("ignore_merges"))
    for name, (wanted, ignores) in CUTS.items():
        if steps == [_bare(step) for step in wanted] and (whole == ignores):
            return name
    raise MismatchError(_no_name(folder))


def _no_name(folder: Path) -> str:
    return (
        f"{folder / FILE} cuts texts in a way that llama.cpp has no name for here; those of "
        f"{', '.join(CUTS)} and of SentencePiece are written as GGUF"
    )


def cut_as(content: dict[str, Any], name: str | None) -> None:
    """Let a tokenizer cut texts as llama.cpp does by that name; leave it for other names."""
    if name not in CUTS:
        return
    steps, whole = CUTS[name]
    steps = [{"trim_offsets": True, **s} if s["type"] == "ByteLevel" else s for s in steps]
    several = {"type": "Sequence", "pretokenizers": steps}
    content["pre_tokenizer"] = several if len(steps) > 1 else steps[0]
    content["model"]["ignore_merges"] = whole


def space_as(content: dict[str, Any], first: bool) -> None:
    """Let a SentencePiece tokenizer mark spaces as llama.cpp does."""
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    steps = [{"type": "Prepend", "prepend": "\u2581"}, mark] if first else [mark]
    content["normalizer"] = {"type": "Sequence", "normalizers": steps}
    content["pre_tokenizer"] = None


def _bare(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step without what changes offsets only, and defaults filled in."""
    known = {key: value for key, value in step.items() if key != "trim_offsets"}
    return {"use_regex": True, **known} if step.get("type") == "ByteLevel" else known


def _spaced(content: Mapping[str, Any], folder: Path) -> bool | None:
    """Return whether a SentencePiece tokenizer puts a space first; None if it pairs bytes.

    Texts that begin with a space get one more in llama.cpp, as in SentencePiece, where a
    `Metaspace` of tokenizers leaves it out.
    """
    cut = _steps(content.get("pre_tokenizer"), "pretokenizers")
    if not content["model"].get("byte_fallback") or "ByteLevel" in [s["type"] for s in cut]:
        return None
    form = _steps(content.get("normalizer"), "normalizers")
    _refuse_others(form, ("Prepend", "Replace"), folder)
    first = [step for step in cut if step["type"] == "Metaspace"]
    # Gemma's: at spaces, of which there are none once they are marked
    if any(step.get("pattern") != {"String": " "} for step in cut if step not in first):
        raise MismatchError(_no_name(folder))
    return any(step["type"] == "Prepend" for step in form) or any(
        step.get("prepend_scheme", "always") != "never" for step in first
    )


def _steps(step: Mapping[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Return the steps of a sequence, or the one there is."""
    return list((step or {}).get(key, [step] if step else []))


def _refuse_others(form: list[dict[str, Any]], known: tuple[str, ...], folder: Path) -> None:
    for step in form:
        if step["type"] not in known:
            raise MismatchError(
                f"{folder / FILE} changes texts before it cuts them ({step['type']}), which "
                "llama.cpp does not; it needs another tokenizer to be written as GGUF"
            )


def _scores(content: Mapping[str, Any], names: list[str], folder: Path) -> list[float]:
    """Return a score for each token: pairs are joined in the order of what they make.

    Raises:
        MismatchError: they are joined in another order, as no SentencePiece model does.

    """
    words, ranks = content["model"], dict[str, int]()
    added = {token["content"] for token in content.get("added_tokens", [])}  # never joined
    pairs = _merges(words)
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    vocab, known = words["vocab"].keys() - added, set(pairs)
    for name in (name for name in ranks if name not in added):
        for place in range(1, len(name)):
            pair = name[:place], name[place:]
            if pair[0] in vocab and pair[1] in vocab and pair not in known:
                raise MismatchError(
                    f"{folder / FILE} does not join {pair[0]!r} and {pair[1]!r}, as a "
                    "SentencePiece model would; llama.cpp reads it as one"
                )
    return [-float(ranks[name]) if name in ranks else 0.0 for name in names]


def _add_special(writer: Any, content: Mapping[str, Any], folder: Path) -> None:
    """Write which tokens begin and end texts, and how a conversation is written."""
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    rows = {**content["model"]["vocab"]}
    rows |= {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    found = {}
    for key in ("bos", "eos", "unk", "pad"):
        token = config.get(f"{key}_token")
        name = token.get("content") if isinstance(token, dict) else token
        if name in rows:
            found[key] = rows[name]
            getattr(writer, f"add_{key}_token_id")(rows[name])
    first, last = _around(content)
    writer.add_add_bos_token(first is not None and first == found.get("bos"))
    writer.add_add_eos_token(last is not None and last == found.get("eos"))
    file = folder / TEMPLATE
    template = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if template:
        writer.add_chat_template(template)


def _around(content: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the tokens that every text begins and ends with."""
    for template in _steps(content.get("post_processor"), "processors"):
        if template.get("type") != "TemplateProcessing":
            continue
        parts = template["single"]
        ids = [
            template["special_tokens"][part["SpecialToken"]["id"]]["ids"][0]
            if "SpecialToken" in part else None
            for part in parts
        ]  # fmt: skip
        if parts:
            return ids[0], ids[-1]
    return None, None
