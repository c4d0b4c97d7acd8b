"""Which licences of weights let a company use them in a product.

What a checkpoint or an adapter stores is a text for people; only one whose every part is known to
allow it counts. What is not known, not stated, or asks that what is made of it be shared alike
(CC-BY-SA, GPL, GFDL) does not.
"""

import re
from collections.abc import Mapping

_NAMES = ("cc0", "cc0-1.0", "public domain", "apache-2.0", "mit", "expat", "isc", "unlicense")
_PERMISSIVE = re.compile("|".join((*map(re.escape, _NAMES), r"cc-by(-\d\.\d)?", "bsd-[23]-clause")))

_OF_OTHERS = re.compile(r"^(started from|taught by) \S+: ")


def commercial(license: str) -> bool:
    """Say whether a licence's text lets a company ship what is under it.

    Args:
        license: names of licences, between commas or semicolons; remarks in parentheses; before
            those of other weights "started from NAME:" or "taught by NAME:".

    """
    parts = re.split(r"[,;]", re.sub(r"\([^()]*\)", "", license))
    bare = (_OF_OTHERS.sub("", part.strip()) for part in parts)
    return all(_PERMISSIVE.fullmatch(part.lower()) for part in bare)


def joined(data_license: str, inherited: Mapping[str, str]) -> str:
    """Return the licence of weights: that of their data, and those of weights they come from.

    Args:
        data_license: of what they were trained on.
        inherited: licences of other weights, by what those did: "started from NAME".

    """
    others = [f"{how}: {text}" for how, text in inherited.items() if text != data_license]
    return "; ".join([data_license, *others])
