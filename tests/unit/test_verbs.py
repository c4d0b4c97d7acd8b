"""The verbs of `import zoo` stay what they are, whatever is imported."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import zoo
from zoo.errors import MismatchError


def test_no_room_bears_the_name_of_a_verb():
    """Python would put a module of its name, once imported, in the place of `zoo.train`."""
    modules = {module.name for module in pkgutil.iter_modules(zoo.__path__)}
    assert modules & set(zoo.__all__) == {"adapters"}  # the one that is a public namespace


def test_no_module_below_the_verbs_bears_the_name_of_one():
    nouns = {"adapters", "checkpoint"}
    verbs = {name for name in zoo.__all__ if name.isidentifier() and name.islower()} - nouns
    assert {"card", "compress", "export", "load", "train"} <= verbs
    found = {
        module.name
        for module in pkgutil.walk_packages(zoo.__path__, "zoo.", onerror=lambda name: None)
        if module.name.rpartition(".")[2] in verbs and not module.name.startswith("zoo.verbs.")
    }
    assert not found


def test_import_and_names_touch_nothing_global():
    code = (
        "import sys, threading, os; before = (list(sys.meta_path), list(sys.path_hooks), "
        "dict(os.environ), threading.active_count())\n"
        "import zoo; zoo.names()\n"
        "assert before == (list(sys.meta_path), list(sys.path_hooks), dict(os.environ), "
        "threading.active_count())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_modules_are_attributes_as_ever():
    assert importlib.import_module("zoo.cache") is zoo.cache


def test_nothing_in_the_place_of_something_is_refused_in_words():
    with pytest.raises(MismatchError, match="nothing to run on"):
        zoo.run("sesr-m5-x2", None)
    with pytest.raises(MismatchError, match="target None"):
        zoo.estimate("sesr-m5-x2", None)
