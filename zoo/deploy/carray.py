"""A file as a C array, for firmware without a file system."""

import re
from pathlib import Path

from zoo.files import write_bytes

ALIGNMENT = 16  # bytes: what TFLite Micro requires of a model


def write_c_array(content: bytes, path: Path) -> Path:
    """Write `content` as the array `<stem of path>` and its size `<stem>_size`.

    The text is C11 and C++11, and meant to be included by one source file.
    """
    name = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    if not name or name[0].isdigit():
        name = f"model_{name}"
    lines = [
        "    " + " ".join(f"0x{byte:02x}," for byte in content[start : start + 16])
        for start in range(0, len(content), 16)
    ]
    text = (
        "#include <stdalign.h>\n#include <stddef.h>\n\n"
        f"alignas({ALIGNMENT}) static const unsigned char {name}[] = {{\n"
        + "\n".join(lines)
        + f"\n}};\nstatic const size_t {name}_size = sizeof({name});\n"
    )
    write_bytes(path, text.encode())
    return path
