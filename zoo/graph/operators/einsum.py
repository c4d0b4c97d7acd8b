"""Products in Einstein's notation, as those of matrices."""

import math
from typing import TYPE_CHECKING, Any

from zoo.graph.operators.chain import Chain

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.trace import Tracer


def trace_einsum(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read a product of two operands in which each letter of a term stands once."""
    equation, operands = a["equation"].replace(" ", ""), a["tensors"]
    inputs, _, result = equation.partition("->")
    terms = inputs.split(",")
    whole = "".join(terms)
    if "->" not in equation:
        result = "".join(sorted(letter for letter in set(whole) if whole.count(letter) == 1))
    plain = len(terms) == 2 and all(len(set(term)) == len(term) for term in (*terms, result))
    if not plain or "." in whole or not _contracts(terms, result):
        raise tracer.unmapped(
            node, f"aten.einsum of {equation!r}, which is no product of two lists of matrices,"
        )
    first, second = terms
    batch = [letter for letter in first if letter in second and letter in result]
    inner = [letter for letter in first if letter in second and letter not in result]
    rows = [letter for letter in first if letter not in second]
    columns = [letter for letter in second if letter not in first]
    chain = Chain(tracer, node)
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        sizes |= dict(zip(term, chain.shape(operand), strict=True))

    def matrices(operand: Any, term: str, high: list[str], wide: list[str]) -> Any:
        order = [term.index(letter) for letter in (*batch, *high, *wide)]
        shape = [math.prod(sizes[letter] for letter in part) for part in (high, wide)]
        turned = chain.permute(operand, order)
        return chain.reshape(turned, (*(sizes[letter] for letter in batch), *shape))

    left, right = (
        matrices(operands[0], first, rows, inner),
        matrices(operands[1], second, inner, columns),
    )
    made = chain.matmul(left, right)
    letters = [*batch, *rows, *columns]
    apart = chain.reshape(made, tuple(sizes[letter] for letter in letters))
    chain.end(chain.permute(apart, [letters.index(letter) for letter in result]))


def _contracts(terms: list[str], result: str) -> bool:
    """Whether what is summed occurs in both terms, and all of the result in one."""
    both = set(terms[0]) & set(terms[1])
    summed = (set(terms[0]) | set(terms[1])) - set(result)
    return summed <= both and set(result) <= set(terms[0]) | set(terms[1])
