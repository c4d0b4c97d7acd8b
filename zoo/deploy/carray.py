"""A file as a C array, for firmware without a file system."""

import re
from pathlib import Path

from zoo.files import write_bytes

ALIGNMENT = 16  # bytes: what TFLite Micro requires of a model
_KEYWORDS = (  # of C17 and C++20
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t "
    "char32_t class co_await co_return co_yield compl concept const const_cast consteval constexpr "
    "constinit continue decltype default delete do double dynamic_cast else enum explicit export "
    "extern false float for friend goto if inline int long mutable namespace new noexcept not "
    "not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires "
    "restrict return short signed sizeof static static_assert static_cast struct switch template "
    "this thread_local throw true try typedef typeid typename union unsigned using virtual void "
    "volatile wchar_t while xor xor_eq"
)


def identifier(stem: str, prefix: str) -> str:
    """Return a file's stem as a name of C and C++, after `prefix` where it is none by itself.

    What starts with an underscore is left to the compiler, as their standards have it.
    """
    name = re.sub(r"\W", "_", stem, flags=re.ASCII)
    alone = name and not name[0].isdigit() and name[0] != "_" and name not in _KEYWORDS.split()
    return name if alone else f"{prefix}_{name.lstrip('_')}".rstrip("_")


def write_c_array(content: bytes, path: Path) -> Path:
    """Write `content` as the array `<stem of path>` and its size `<stem>_size`.

    The text is C11 and C++11, and meant to be included by one source file.
    """
    name = identifier(path.stem, "model")
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
