"""Search by trials: what its folder holds, how it goes on after a kill, and what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import zoo
from zoo import registry
from zoo.cli import main
from zoo.errors import MismatchError, ZooError
from zoo.nas import black_box, judging
from zoo.nas.assignment import Assignment
from zoo.nas.limits import Limits, Use
from zoo.nas.searchers import contract as searchers
from zoo.nas.searchers import random
from zoo.nas.spaces.contract import Choice, Decision, choices, derived
from zoo.nas.study import TRIALS, Study
from zoo.tasks.keyword_spotting import trial as spoken

SMALL = ["--set", "widest=12", "--set", "pairs=1,2", "--set", "step=4"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    spoken(folder)
    return folder


# --- a space of rectangles, judged without a network ----------------------------------------------

SIDES = (1, 2, 3, 4, 5, 6)


def rectangles() -> Any:
    """Two widths; the networks are real, and never built here."""
    base = registry.find("micronet-kws-s")
    return SimpleNamespace(
        SUMMARY="rectangles",
        Options=random.Options,
        decisions=lambda options: tuple(
            Decision(name=name, values=SIDES, kind="width") for name in ("long", "wide")
        ),
        recipe=lambda options, choice, name: derived(
            base, name, "a rectangle", width=choice["long"], blocks=[[choice["wide"], 1]]
        ),
    )


def area(choice: Choice) -> Use:
    return Use(macs=int(choice["long"]) * int(choice["wide"]))


def square(choice: Choice) -> float:
    """The longer the better, and square before long."""
    return (
        int(choice["long"])
        + int(choice["wide"])
        - 2 * abs(int(choice["long"]) - int(choice["wide"]))
    )


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Choice]:
    """Let areas and squares stand for what is measured and trained; give what is judged."""
    seen: list[Choice] = []

    def chosen(recipe: Any) -> Choice:
        return {"long": recipe.args["width"], "wide": recipe.args["blocks"][0][0]}

    def trained(recipe: Any, use: Use, folder: Path, **_: Any) -> judging.Verdict:
        seen.append(chosen(recipe))
        value = float(square(seen[-1]))
        return judging.Verdict(merit=value, scores={"accuracy": value}, spent=10.0)

    monkeypatch.setattr("zoo.nas.measuring.measured", lambda recipe, *_: area(chosen(recipe)))
    monkeypatch.setattr(judging, "trained", trained)
    monkeypatch.setattr(Assignment, "identity", lambda self, material: {"space": self.space_name})
    monkeypatch.setattr(judging, "fitted", lambda recipe, data: recipe)
    return seen


def assignment(macs: float = 12, **changes: Any) -> Assignment:
    given = {"limits": Limits(macs=macs), "data": "words", **changes}
    return Assignment(
        name="found", space=rectangles(), space_name="rectangles", settings=None, **given
    )


def search(folder: Path, by: str = "random", trials: int = 99, **changes: Any) -> black_box.Finding:
    searcher = searchers.find(by)
    keys = ("work", "resume")
    how = {key: changes.pop(key) for key in keys if key in changes}
    return black_box.search(
        assignment(**changes), searcher, searcher.Options(), by, folder, trials=trials, **how
    )


@pytest.mark.parametrize("by", ["random", "evolution", "nsga2"])
@pytest.mark.parametrize("macs", [4, 16])
def test_a_search_of_everything_finds_what_brute_force_finds(
    counted: list[Choice], tmp_path: Path, by: str, macs: int
):
    found = search(tmp_path / "all", by, macs=macs)
    space = rectangles().decisions(None)
    fitting = [choice for choice in choices(space) if area(choice).macs <= macs]
    assert found.best.merit == max(map(square, fitting))
    assert len(counted) == len(fitting)  # each once, and none beyond the limit
    assert {tuple(c.values()) for c in counted} == {tuple(c.values()) for c in fitting}


def test_proposals_are_filled_to_the_limit(counted: list[Choice], tmp_path: Path):
    found = search(tmp_path / "some", trials=2, macs=25)
    assert {trial.use.macs for trial in found.trials} <= {24, 25}
    assert found.trials[0].proposed != {}


def test_a_search_ends_when_its_work_is_spent(counted: list[Choice], tmp_path: Path):
    found = search(tmp_path / "work", work=35)
    assert len(found.trials) == 4  # of 10 each: begun while less than 35 were spent
    assert sum(trial.spent for trial in found.trials) == 40


def test_the_front_and_its_picture(counted: list[Choice], tmp_path: Path):
    from zoo.nas.front import front, table

    found = search(tmp_path / "front", "nsga2", macs=16)
    best = front(found.trials, "macs")
    assert [t.use.macs for t in best] == [1, 4, 9, 16]
    assert table(best, "accuracy")[0] == ["TRIAL", "ACCURACY", "SRAM", "flash", "MACs",
                                         "OF LIMITS", "CHOICE"]  # fmt: skip
    assert table(best, "accuracy")[-1][-2:] == ["100 %", "long 4, wide 4"]
    with Image.open(tmp_path / "front" / "front.png") as picture:
        assert picture.size[0] > 1000


@pytest.mark.parametrize("by", ["random", "evolution", "nsga2", "tpe"])
def test_a_search_goes_on_after_a_kill_as_if_there_had_been_none(
    counted: list[Choice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
):
    whole = search(tmp_path / "whole", by, 8, macs=30)
    trained, left = judging.trained, [3]

    def killed(*args: Any, **kwargs: Any) -> judging.Verdict:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return trained(*args, **kwargs)

    monkeypatch.setattr(judging, "trained", killed)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "killed", by, 8, macs=30)
    monkeypatch.setattr(judging, "trained", trained)
    lines = (tmp_path / "killed" / TRIALS).read_text()
    with (tmp_path / "killed" / TRIALS).open("a") as stream:
        stream.write('{"number": 3, "choi')  # as a kill cuts a line off
    assert (tmp_path / "killed" / "found.json").is_file()  # the best so far
    again = search(tmp_path / "killed", by, 8, macs=30, resume=True)
    assert (tmp_path / "killed" / TRIALS).read_text().startswith(lines)

    def facts(found: black_box.Finding) -> list[Any]:
        return [(t.number, dict(t.choice), t.merit, t.spent) for t in found.trials]

    assert facts(again) == facts(whole)
    assert not list((tmp_path / "killed" / "trials").iterdir())


def test_processes_take_different_trials(tmp_path: Path):
    one, other = Study(tmp_path), Study(tmp_path)
    with one.claimed(2) as first, other.claimed(2) as second, Study(tmp_path).claimed(2) as third:
        assert (first, second, third) == (0, 1, None)
    with other.claimed(2) as again:
        assert again == 0


def test_a_trial_whose_loss_is_infinite_is_one_that_failed(
    counted: list[Choice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trained = judging.trained

    def failing(recipe: Any, *args: Any, **kwargs: Any) -> judging.Verdict:
        if recipe.args["width"] % 2:
            raise ZooError("the loss is nan at step 3")
        return trained(recipe, *args, **kwargs)

    monkeypatch.setattr(judging, "trained", failing)
    found = search(tmp_path / "some", macs=36)
    assert {trial.failed for trial in found.trials} == {"", "the loss is nan at step 3"}
    assert found.best.merit == 12  # six by six
    with pytest.raises(ZooError, match=r"none of 1 trials has a result; the last says: the loss"):
        search(tmp_path / "none", macs=1)


def test_a_folder_is_of_one_search(counted: list[Choice], tmp_path: Path):
    search(tmp_path / "one", trials=1)
    with pytest.raises(MismatchError, match="already holds a search; add --resume"):
        search(tmp_path / "one", trials=1)
    with pytest.raises(MismatchError, match="with by = 'random', not 'evolution'"):
        search(tmp_path / "one", "evolution", trials=1, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(MismatchError, match="holds other files, and no search"):
        search(tmp_path / "other", trials=1)


# --- with networks --------------------------------------------------------------------------------


def test_a_search_finds_a_recipe_that_fits_and_is_trained(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
):
    monkeypatch.chdir(tmp_path)
    command = ["search", "micronet-kws", *SMALL, "--max-macs", "0.2M", "--max-sram", "32KB",
               "--data", str(words), "--steps", "2", "--out", "mine",
               "--set", "train.batch_size=8"]  # fmt: skip
    assert main([*command, "--trials", "1"]) == 0
    assert "OF LIMITS" in capsys.readouterr().out
    assert main([*command, "--trials", "2", "--resume", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 2
    assert found["best"]["use"]["macs"] <= 200_000
    assert found["best"]["use"]["how"]["flash_bytes"] == "the .tflite file"
    lines = (tmp_path / "mine" / TRIALS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == found["trials"]
    assert found["trials"][0]["spent"] == 2 * 8 * found["trials"][0]["use"]["macs"]
    made = zoo.train("mine/mine.json", "run", data=words, device="cpu", steps=2)
    assert made.recipe.train.batch_size == 8
    assert made.label == "mine.own"
    assert "mine" in (tmp_path / "run" / "README.md").read_text()
    macs = zoo.estimate("./run", "ethos-u55-128", method="roofline").macs
    assert macs == found["best"]["use"]["macs"]
    zoo.export("./run", "mine.tflite", format="tflite", int8=True, data=words)
    assert (tmp_path / "mine.tflite").stat().st_size == found["best"]["use"]["flash_bytes"]


def test_a_supernet_learns_the_labels_of_the_data(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "mine"
    command = ["search", "micronet-kws", *SMALL, "--by", "dnas", "--max-macs", "0.2M", "--json",
               "--data", str(words), "--steps", "4", "--trials", "1", "--out", str(out),
               "--set", "train.batch_size=8", "--set", "train.precision=no"]  # fmt: skip
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"]["load"] <= 1
    labels = json.loads((out / "mine.json").read_text())["preprocessing"]["labels"]
    assert set(labels) >= {folder.name for folder in words.iterdir()}
    trial = found["trials"][0]
    assert trial["spent"] > 4 * 8 * trial["use"]["macs"]  # the supernet's work too


@pytest.mark.parametrize("proxy", ["synflow", "naswot", "macs"])
def test_a_search_by_a_proxy_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], proxy: str
):
    out = tmp_path / "mine"
    assert main(["search", "micronet-kws", *SMALL, "--max-macs", "0.2M", "--objective", proxy,
                 "--by", "random", "--trials", "2", "--out", str(out), "--json"]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    scores = [trial["scores"][proxy] for trial in found["trials"]]
    assert found["best"]["merit"] == max(scores)
    assert {trial["spent"] for trial in found["trials"]} == {0.0}


def test_a_filter_tries_the_best_of_some_proposals(
    counted: list[Choice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Choice] = []

    def by_proxy(name: str, *_: Any) -> Any:
        def score(choice: Choice, recipe: Any, use: Use) -> float:
            asked.append(choice)
            return float(square(choice))

        return score

    monkeypatch.setattr(judging, "by_proxy", by_proxy)
    search(tmp_path / "some", "nsga2", 1, macs=36, filter="macs", draws=5)
    assert len(asked) == 5
    assert square(counted[0]) == max(map(square, asked))


WRONG = [
    (["--max-sram", "64KW"], "'64KW' has the unit 'KW'"),
    (["--max-latency", "5ms"], "a limit of latency is one on a device; add --target"),
    (["--max-macs", "1"], "no network of this space is within --max-macs 1; the smallest feasible"),
    (
        ["--max-sram", "100B", "--target", "ethos-u55-128"],
        "smallest feasible values are --max-sram",
    ),
    (["--by", "guessing"], "guessing"),
    (["--objective", "flops"], "unknown proxy 'flops'"),
    (
        ["--target", "stm32f746-216mhz-cmsisnn", "--method", "vela"],
        "latency cannot be known: target 'stm32f746-216mhz-cmsisnn' is not an Ethos-U",
    ),
    (["--target", "nothing"], "nothing"),
    (["--set", "by.population=0"], "expected a sample of 1 up to the population"),
    (["--set", "depth=3"], "unknown option 'depth'"),
    (["--set", "train.rate=3"], "no setting 'rate'"),
    (["--set", "widest=0"], "widths from 4 to 0"),
    (["--out", "Mine"], "expected a folder's name of small letters"),
    (["--out", "micronet-kws-s"], "micronet-kws-s is a recipe of the zoo"),
    (["--against", "latency"], "a front against latency needs a device"),
    (["--data", "nowhere"], "nowhere"),
]


@pytest.mark.parametrize(("changed", "told"), WRONG)
def test_a_wrong_search_is_refused_in_one_line_before_it_starts(
    changed: list[str],
    told: str,
    words: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    given = {"--data": str(words), "--out": "mine"}
    given |= {flag: "" for flag in changed if flag in given}
    base = [word for flag, value in given.items() if value for word in (flag, value)]
    assert main(["search", "micronet-kws", *base, "--trials", "1", "--steps", "1", *changed]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*/trials.jsonl"))


@pytest.mark.parametrize("space", ["micronet-kws", "micronet-ad", "micronet-vww", "vit-tiny"])
def test_data_of_one_class_are_told(space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kind = {"micronet-kws": "yes", "micronet-ad": "00", "micronet-vww": "person"}.get(space, "cat")
    folder = tmp_path / "data" / kind
    folder.mkdir(parents=True)
    if space in ("micronet-kws", "micronet-ad"):
        import numpy as np
        import soundfile

        for n in range(30):
            tone = np.sin(np.arange(16000 * (1 if "kws" in space else 2)) / (9 + n))
            name = f"{n}.wav" if "kws" in space else f"normal_id_00_{n:08}.wav"
            soundfile.write(folder / name, tone, 16000)
    else:
        for n in range(60):
            Image.new("RGB", (8, 8), (n, 0, 0)).save(folder / f"{n}.png")
    words = ["search", space, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "mine")]
    assert main([*words, "--trials", "1", "--steps", "1"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert any(word in error for word in ("one", "two", "no folder"))


def test_other_limits_and_another_space_are_not_resumed(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = str(tmp_path / "mine")
    base = ["--objective", "macs", "--trials", "1", "--by", "random", "--out", out]
    assert main(["search", "micronet-kws", *SMALL, *base, "--max-macs", "1M"]) == 0
    capsys.readouterr()
    for changed, told in (
        (["micronet-kws", *SMALL, "--max-macs", "2M"], "limits.macs = 1000000.0, not 2000000.0"),
        (["micronet-kws", *SMALL[:-2], "--max-macs", "1M", "--set", "step=2"], "options.step = 4"),
        (["micronet-ad", "--max-macs", "1M"], "of the space 'micronet-kws', not 'micronet-ad'"),
        (["micronet-kws", *SMALL, "--max-macs", "1M", "--seed", "1"], "seed = 0, not 1"),
        (
            ["micronet-kws", *SMALL, "--max-macs", "1M", "--target", "ethos-u55-128"],
            "target = None, not 'ethos-u55-128'",
        ),
    ):
        assert main(["search", *changed, *base, "--resume"]) == 1
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1


# --- killed for real ------------------------------------------------------------------------------
