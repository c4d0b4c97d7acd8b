"""What a base's folder is called never costs a training; neither does its card."""

import shlex
import shutil

import pytest

from zoo.adapters import SparseAdapter, registry
from zoo.adapters.folder import AdapterFolder
from zoo.cards import adapter as card
from zoo.cards.check import front_matter
from zoo.cli import main
from zoo.registry import refs

ONE_STEP = {"train__steps": 1, "train__warmup_steps": 0, "train__eval_every": 1}
NAMES = ["Llama-3.2-Tiny", "my model", "v1.5_x", "模型", 'it\'s {{ 7 }} "a|b`c"', "-x", "~x", "@"]


@pytest.mark.parametrize("name", NAMES)
def test_a_base_in_a_folder_of_any_name(name, tiny, train_tiny, tmp_path, capsys):
    base, out = tmp_path / name, tmp_path / "run"
    shutil.copytree(tiny, base)
    assert train_tiny(out, "--base", str(base), **ONE_STEP) == 0
    assert capsys.readouterr().err == ""
    folder = AdapterFolder.read(out)
    assert folder.recipe.base == name
    text = (out / "README.md").read_text()
    assert "base_model" not in front_matter(text)  # a folder is not a model of the Hub
    words = shlex.split(card.command(folder))
    given = words[words.index("--base") + 1]
    assert refs.parse(given) == refs.PathRef(refs.Path(f"./{name}"))
    assert registry.recipe_for("farm", given, "causal-lm", {}).base == name
    code = text.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")


@pytest.mark.parametrize("name", ["two\nlines", "a\ttab", "bell\a"])
def test_a_name_that_cannot_be_printed_is_refused_before_the_first_step(
    name, tiny, train_tiny, tmp_path, capsys
):
    shutil.copytree(tiny, tmp_path / name)
    assert train_tiny(tmp_path / "run", "--base", str(tmp_path / name), **ONE_STEP) == 1
    assert "has no name that can be printed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_card_that_cannot_be_rendered_leaves_the_adapter(
    train_tiny, tmp_path, monkeypatch, caplog
):
    def broken(*_, **__):
        raise ValueError("no such fact")

    monkeypatch.setattr(card, "render", broken)
    out = tmp_path / "run"
    assert train_tiny(out, **ONE_STEP) == 0
    assert "holds the trained adapter, but its card could not be written: ValueError" in caplog.text
    folder = AdapterFolder.read(out)
    assert folder.metrics["training"]["complete"] is True
    assert SparseAdapter.load(folder.file).nnz > 0
    assert main(["adapter", "info", str(out)]) == 0
