"""The arena planner on random graphs, against brute force where that is possible."""

from itertools import combinations, permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.cost.memory import ArenaPlan, plan, resident
from zoo.graph.ir import Graph, Kind, Op, Tensor


@st.composite
def graphs(draw: st.DrawFn, most_ops: int = 12) -> Graph:
    """Draw a graph of one-element-wide tensors with skips, in-place ops and several outputs."""
    tensors = {"x": tensor("x", draw(st.integers(1, 300)), "input")}
    ops = []
    for index in range(draw(st.integers(1, most_ops))):
        names = sorted(tensors)
        inputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        kind = draw(st.sampled_from(["conv2d", "add", "relu", "reshape", "concat"]))
        same = kind in ("add", "relu", "reshape")
        size = tensors[inputs[0]].elements if same else draw(st.integers(1, 300))
        name = f"t{index}"
        tensors[name] = tensor(name, size, "activation")
        ops.append(
            Op(
                name=name,
                kind=kind,
                inputs=tuple(inputs),
                outputs=(name,),
                attributes={},
                macs=0,
                module="",
            )
        )
    outputs = {ops[-1].name, draw(st.sampled_from([op.name for op in ops]))}
    return Graph(ops=tuple(ops), tensors=tensors, inputs=("x",), outputs=tuple(sorted(outputs)))


def tensor(name: str, size: int, kind: Kind) -> Tensor:
    """Make a flat float tensor."""
    return Tensor(name=name, shape=(size,), dtype="float32", kind=kind)


def clashes(graph: Graph, packed: ArenaPlan) -> set[tuple[str, str]]:
    """Return the pairs of activations that exist together and share bytes."""
    found = set()
    for a, b in combinations(packed.offsets, 2):
        (a_first, a_last), (b_first, b_last) = graph.lifetimes[a], graph.lifetimes[b]
        together = a_first <= b_last and b_first <= a_last
        low, high = sorted((a, b), key=lambda name: packed.offsets[name])
        overlap = packed.offsets[low] + packed.sizes[low] > packed.offsets[high]
        if together and overlap:
            found.add((a, b))
    return found


@given(graphs())
def test_activations_that_exist_together_never_overlap(graph: Graph) -> None:
    packed = plan(graph, "int8", in_place=False)
    assert not clashes(graph, packed)
    assert packed.arena_bytes >= packed.lower_bound_bytes
    assert set(packed.offsets) == set(graph.lifetimes)
    assert all(offset % 16 == 0 for offset in packed.offsets.values())


@given(graphs())
def test_in_place_overlaps_only_an_op_with_its_dying_input(graph: Graph) -> None:
    packed = plan(graph, "float32")
    steps = {op.outputs[0]: (index, op) for index, op in enumerate(graph.ops)}
    for pair in clashes(graph, packed):
        output = max(pair, key=lambda name: steps.get(name, (-1, None))[0])
        source = pair[0] if output == pair[1] else pair[1]
        index, op = steps[output]
        assert op.kind in ("add", "relu", "reshape")
        assert source in op.inputs
        assert graph.lifetimes[source][1] == index
        assert source not in graph.outputs
        assert packed.offsets[source] == packed.offsets[output]
        assert packed.sizes[source] == packed.sizes[output]
    assert packed.arena_bytes >= packed.lower_bound_bytes
    assert packed.lower_bound_bytes <= plan(graph, "float32", in_place=False).lower_bound_bytes


@settings(max_examples=30)
@given(graphs(most_ops=5))
def test_greedy_lies_between_the_best_packing_and_no_reuse(graph: Graph) -> None:
    packed = plan(graph, "int8", in_place=False)
    best = min(
        first_fit(graph, packed, order)
        for order in permutations(graph.lifetimes)  # an optimal packing is first-fit in some order
    )
    assert packed.lower_bound_bytes <= best <= packed.arena_bytes <= sum(packed.sizes.values())


def first_fit(graph: Graph, packed: ArenaPlan, order: tuple[str, ...]) -> int:
    """Return the arena of placing activations in this order, each as low as it can lie."""
    offsets: dict[str, int] = {}
    for name in order:
        first, last = graph.lifetimes[name]
        rivals = [
            other
            for other in offsets
            if graph.lifetimes[other][0] <= last and first <= graph.lifetimes[other][1]
        ]
        places = [0, *(offsets[other] + packed.sizes[other] for other in rivals)]
        offsets[name] = min(
            place
            for place in places
            if all(
                place + packed.sizes[name] <= offsets[other]
                or offsets[other] + packed.sizes[other] <= place
                for other in rivals
            )
        )
    return max(offsets[name] + packed.sizes[name] for name in offsets)


@given(graphs(), st.integers(0, 3000))
def test_residents_fit_together(graph: Graph, sram_bytes: int) -> None:
    chosen = resident(graph, "int8", sram_bytes)
    sizes = plan(graph, "int8").sizes
    for step in range(len(graph.ops)):
        spans = graph.lifetimes
        live = sum(sizes[name] for name in chosen if spans[name][0] <= step <= spans[name][1])
        assert live <= sram_bytes
    everything = plan(graph, "int8", in_place=False).lower_bound_bytes
    assert resident(graph, "int8", everything) == set(graph.lifetimes)
