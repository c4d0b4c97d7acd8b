"""The verbs of `import zoo` stay what they are, whatever is imported."""

import importlib
import pkgutil

import zoo
from zoo import api


def test_a_module_of_the_same_name_does_not_take_the_place_of_a_verb():
    """Python puts zoo/train.py, once imported, in the place of the function `zoo.train`."""
    modules = {module.name for module in pkgutil.iter_modules(zoo.__path__)} & set(api.__all__)
    assert {"card", "checkpoint", "export", "serve", "train"} <= modules
    for name in modules - {"serve"}:  # which takes seconds to import
        assert importlib.import_module(f"zoo.{name}").__name__ == f"zoo.{name}"
    for name in modules:
        assert getattr(zoo, name) is getattr(api, name)


def test_other_modules_are_attributes_as_ever():
    assert importlib.import_module("zoo.cache") is zoo.cache
