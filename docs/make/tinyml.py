"""Tables of the small networks that see and hear, from the stored results of their benchmarks."""

from docs.make.headlines import stored

_FITS = {
    "npu_cycles": "cycles of an Ethos-U55-128, by Vela",
    "cpu_ms": "time here, LiteRT's kernels, one thread",
    "board_ms": "time of a Cortex-M7, by the roofline",
    "encoded_bytes": "bytes of weights that Vela encodes, against parameters",
}


def files() -> str:
    """Return what each int8 file takes, and where its integers were compared."""
    found = stored("tinyml_files")
    lines = [
        "| network | MACs | TFLite Micro | LiteRT | arena, of it activations | file | encoded "
        "| U55-128 | left to the CPU |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, file in found["files"].items():
        same = []
        for apart in file["apart"].values():
            few = f"{apart['values']} of {file['values']:,} by a step"
            same.append(few if apart["values"] else "equal")
        arena = f"{file['arena']['total']:,}, {file['arena']['head']:,} B"
        npu = file["npu"]
        cells = [f"`{name}`", f"{file['macs']:,}", *same, arena, f"{file['file_bytes']:,} B"]
        cells += [f"{npu['encoded_bytes']:,} B", f"{npu['cycles']:,} cycles", f"{npu['cpu_ops']}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def linear() -> str:
    """Return how well a line fits within each family, and across all of them."""
    found = stored("tinyml_linear")["fits"]
    families = list(found["npu_cycles"]["within"])
    lines = [f"| R2 of a line | {' | '.join(families)} | all together |"]
    lines.append(f"|---|{'---:|' * (len(families) + 1)}")
    for metric, words in _FITS.items():
        both = found[metric]
        shown = [f"{line['r2']:.3f}" for line in (*both["within"].values(), both["across"])]
        lines.append(f"| {words} | {' | '.join(shown)} |")
    counts = [str(line["n"]) for line in found["npu_cycles"]["within"].values()]
    lines.append(f"| networks | {' | '.join(counts)} | {found['npu_cycles']['across']['n']} |")
    return "\n".join(lines)


def slopes() -> str:
    """Return what a million operations more take in each family."""
    found = stored("tinyml_linear")["fits"]
    lines = ["| family | cycles of the U55-128 | ms here | ms of the Cortex-M7 |"]
    lines.append("|---|---:|---:|---:|")
    for family, line in found["npu_cycles"]["within"].items():
        here, board = (found[key]["within"][family]["slope"] for key in ("cpu_ms", "board_ms"))
        lines.append(f"| {family} | {line['slope']:,.0f} | {here:.4f} | {board:.2f} |")
    return "\n".join(lines)


def encoded() -> str:
    """Return how many bytes Vela's encoder makes of a parameter, of weights that were trained."""
    rows = sorted(
        stored("tinyml_linear")["real"], key=lambda r: r["encoded_bytes"] / r["parameters"]
    )
    lines = ["| weights | parameters | encoded | bytes a parameter |", "|---|---:|---:|---:|"]
    for row in rows:
        count, size = row["parameters"], row["encoded_bytes"]
        lines.append(f"| `{row['name']}` | {count:,} | {size:,} B | {size / count:.2f} |")
    return "\n".join(lines)


def streams() -> str:
    """Return how often a wake word is heard where nobody says it."""
    found = stored("wake_word_stream")["marvin"]
    words = {"in a row": "1000 clips, one after the other", "with gaps": "the same, noise between"}
    lines = [
        "| sound | hours | detections | of them in `unknown` clips | an hour | without those |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for key, text in words.items():
        row = found[key]
        maybe = row["in_clips_of"].get("unknown", 0)
        cells = [text, f"{row['hours']:.2f}", str(row["detections"]), str(maybe)]
        cells += [f"{row['per_hour_all']:.1f}", f"{row['per_hour_without_unknown']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def levels() -> str:
    """Return what keyword networks reach by the level that a second is brought to."""
    found = stored("wake_word_stream")["levels"]
    lines = [
        "| network | each second by itself | running peak | as recorded |",
        "|---|---:|---:|---:|",
    ]
    for ref, by_level in found.items():
        shown = [f"{100 * share:.1f} %" for share in by_level.values()]
        name = "micronet-kws-m.published" if ref == "words12" else ref
        lines.append(f"| `{name}` | {' | '.join(shown)} |")
    return "\n".join(lines)
