"""The house has floors: a room imports only rooms below it, and no modules import in a circle.

Imports inside functions count, and modules that a text names; between rooms, so do those for
type checkers alone.
"""

import ast
import graphlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo

ROOT = Path(zoo.__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "zoo").rglob("*.py")
}
# From the roof down. Files of `zoo` itself (errors, files, ...) lie below all rooms.
ROOMS = (
    "cli", "page", "verbs", "cards", "nas", "resilience", "cost", "artifacts", "deploy",
    "adapters", "integrations", "compression", "quantization", "training", "tasks", "data",
    "runtime", "graph", "recipes", "registry", "models", "hub", "weights",
)  # fmt: skip
FILES = ("cache", "content", "errors", "extensions", "files", "version")
# (from, to): why the arrow may go up.
EXCEPTIONS = {
    ("zoo.registry.catalogue", "zoo.recipes"): "discovery: families are found by being there",
    ("zoo.compression.catalogue", "zoo.nas.methods"): "discovery: methods are found by being there",
    ("zoo.compression.catalogue", "zoo.resilience.methods"): "discovery: as above",
    ("zoo.quantization", "zoo.integrations.registration"): "published cards say `import "
    "zoo.quantization`, after which transformers must open packed checkpoints",
    (
        "zoo.registry.checkpoint",
        "zoo.quantization.opening",
    ): "what `zoo.compress` returns opens what is "
    "stored as codes, by its method `load`: packed language models, and factors on a grid",
}

# What other rooms may use of the hub, and the floors of its server, from the roof down.
HUB = {"exchange", "safety", "server", "snapshots", "vocabulary", "where"}
SERVER = (
    *("", "serving", "app", "web", "api", "call", "pool", "door", "mirror", "store", "budget"),
    "common",
)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(tree: ast.AST, types: bool) -> Iterator[str]:
    """The names that a module imports anywhere, and the modules of ours that a text names."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if types or not is_for_types(node):
            nodes.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if name.startswith("zoo.") and name in MODULES:
                yield name


def home(name: str) -> str | None:
    """The module that a dotted name lies in, if it is one of ours."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def edges(types: bool = True) -> dict[str, set[str]]:
    found = {}
    for module, path in MODULES.items():
        names = imported(ast.parse(path.read_text(encoding="utf-8")), types)
        found[module] = {place for name in names if (place := home(name)) not in (None, module)}
    return found


def floor(module: str) -> int:
    """The number of a module's floor, counted from the roof; `zoo` itself is the roof."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return -1
    return len(ROOMS) if parts[1] in FILES else ROOMS.index(parts[1])


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_every_room_has_its_floor_and_the_roof_few_files():
    own = {p.stem for p in (ROOT / "zoo").glob("*.py")}
    assert own == {"__init__", "__main__", *FILES}
    rooms = {path.parent.name for path in (ROOT / "zoo").glob("*/__init__.py")}
    assert rooms <= set(ROOMS)


def test_no_arrow_goes_up():
    upward = {
        (module, place)
        for module, places in edges().items()
        for place in places
        if floor(place) < floor(module) and room(module) != room(place)
    }
    assert upward == set(EXCEPTIONS)
    assert len(EXCEPTIONS) <= 5


def test_only_the_hub_knows_its_insides():
    outside = [path for name, path in MODULES.items() if room(name) != "zoo.hub"]
    for folder in ("benchmarks", "spaces"):
        outside += (ROOT / folder).rglob("*.py")
    used = {
        (str(path.relative_to(ROOT)), place)
        for path in outside
        for name in imported(ast.parse(path.read_text(encoding="utf-8")), types=True)
        if (place := home(name)) and place.startswith("zoo.hub.")
    }
    faces = {f"zoo.hub.{name}" for name in HUB}
    assert {place for _, place in used} == faces  # all of them, or the test sees nothing
    assert not [(path, place) for path, place in used if place not in faces]


def test_the_hub_server_imports_down_its_floors():
    def level(module: str) -> int:
        return SERVER.index(module.removeprefix("zoo.hub.server").strip(".").partition(".")[0])

    inside = {m: places for m, places in edges(types=False).items() if "zoo.hub.server" in m}
    upward = {
        (module, place)
        for module, places in inside.items()
        for place in places & inside.keys()
        if level(place) < level(module)
    }
    assert not upward


def test_no_module_imports_itself_through_others():
    below = edges(types=False)
    assert below["zoo.verbs.use"] > {"zoo.artifacts.resolution", "zoo.cost"}
    for start, end in EXCEPTIONS:
        below[start].discard(end)
    graphlib.TopologicalSorter(below).prepare()  # a CycleError names the circle


# Says what each room loads when it is imported alone. torch, which takes seconds, is there already.
ALONE = f"""
import json, os, sys, types
import torch
zoo = types.ModuleType("zoo")  # itself it imports the verbs: a bare package stands in for it
zoo.__path__ = [{str(ROOT / "zoo")!r}]
sys.modules["zoo"] = zoo
for name in sys.argv[1:]:
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0, name
        continue
    __import__(f"zoo.{{name}}")
    print(json.dumps([name, [m for m in sys.modules if m.startswith("zoo.")]]), flush=True)
    os._exit(0)  # to tidy up after torch takes as long as all the rest
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="rooms are loaded alone in forks")
def test_a_room_alone_loads_no_room_above_it():
    rooms = [name for name in ROOMS if (ROOT / "zoo" / name / "__init__.py").exists()]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *rooms], capture_output=True, text=True, check=True
    )
    loaded = dict(map(json.loads, done.stdout.splitlines()))
    assert list(loaded) == rooms
    for name, modules in loaded.items():
        assert f"zoo.{name}" in modules
        allowed = {room(end) for start, end in EXCEPTIONS if room(start) in map(room, modules)}
        above = {m for m in modules if floor(m) < ROOMS.index(name) and room(m) not in allowed}
        assert not above, name


def test_one_word_is_one_class():
    """`Options` alone means something else in each file: the contracts ask for it."""
    homes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    assert homes["Target"] == ["zoo.cost.target"]
    assert {n: places for n, places in homes.items() if len(places) > 1 and n != "Options"} == {}
