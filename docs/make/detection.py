"""The table of the detectors of blood cells, from the stored results of their benchmark."""

from docs.make.headlines import stored


def table() -> str:
    """Return a row for each backbone: cost, precision on the test pictures, speed."""
    lines = [
        "| | MACs | mAP@.5 float, int8 | mAP@.5:.95 | pictures a second in torch, int8 on LiteRT | "
        "Ethos-U55-256 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in stored("detection")["detectors"].items():
        shares, fps = found["precision"], found["fps"]
        pair = [f"{shares[form]['map_50']:.3f}" if shares else "-" for form in ("float", "int8")]
        cells = [
            f"`{name}`",
            f"{found['macs'] / 1e6:.1f} M",
            ", ".join(pair) if shares else "not trained",
            f"{shares['float']['map']:.3f}" if shares else "",
            f"{fps['float, torch']:.0f}, {fps['int8, LiteRT']:.0f}",
            f"{found['vela']['ethos-u55-256']['latency_ms']:.1f} ms",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
