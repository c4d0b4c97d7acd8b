"""`zoo reliability`: what it gives for a shipped network, and what it refuses, in one line."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.cards import resilience as section
from zoo.cards.model import render
from zoo.cli import main
from zoo.errors import MismatchError, UnknownNameError, ZooError
from zoo.resilience import contract
from zoo.resilience.analyses import noise
from zoo.resilience.results import Estimate, Reliability

REF = "mlperf-tiny-ic.cifar10-int8"
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
QUICK = {"faults": 400, "samples": 20}


def painted(folder, moved):
    """Pictures of noise in the folder of the network's answer, or `moved` folders further."""
    dice = np.random.default_rng(0)
    colours = dice.integers(0, 256, (60, 1, 1, 3))
    pixels = np.clip(colours + dice.integers(-90, 90, (60, 32, 32, 3)), 0, 255).astype(np.uint8)
    real = torch.from_numpy(pixels).float().permute(0, 3, 1, 2)
    low, high = zoo.find("mlperf-tiny-ic").preprocessing["range"]
    answers = zoo.load(REF)(real * ((high - low) / 255) + low).argmax(1)
    for number, (picture, answer) in enumerate(zip(pixels, answers.tolist(), strict=True)):
        # The first ten make sure that each folder has a picture, right or not.
        label = number + (number == answer) * moved if number < 10 else answer + moved
        place = folder / LABELS[label % 10]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return painted(tmp_path_factory.mktemp("pictures"), 0)


@pytest.fixture(scope="module")
def found(data):
    return zoo.reliability(REF, "ethos-u55-128", data=data, **QUICK)


def test_every_number_has_an_interval_and_says_how_it_is_known(found):
    assert found.value is found.estimates["resiliency"]
    for estimate in found.estimates.values():
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.known in ("exact", "measured", "estimated")
    clean = found.estimates["accuracy"].value
    share = found.facts["live_share"]
    assert 0 < share < 1
    lost = clean - found.estimates["resiliency"].value
    assert clean - found.estimates["resiliency_all_cycles"].value == pytest.approx(lost * share)
    assert any("accumulator: 8,192 bits, sram (assumed" in line for line in found.assumed)


def test_tables_share_out_all_live_sites(found):
    for rows in found.tables.values():
        assert sum(row["share_%"] for row in rows) == pytest.approx(100)
        assert sum(row["faults"] for row in rows) == found.facts["faults"]
    assert [row["register"] for row in found.tables["register"]] == [
        "activation", "weight", "accumulator",
    ]  # fmt: skip


def test_it_is_saved_as_json_and_as_a_picture(found, tmp_path):
    kept = json.loads(found.save(tmp_path / "a.json").read_text())
    assert kept["estimates"]["flip_rate"]["low"] == found.estimates["flip_rate"].low
    with Image.open(found.save(tmp_path / "a.png")) as picture:
        assert picture.width == 1500
        assert len(picture.convert("RGB").getcolors(2**16)) > 10
    with pytest.raises(MismatchError, match=r"NAME.png or NAME.json"):
        found.save(tmp_path / "a.txt")


def test_one_seed_is_one_result_and_registers_can_be_chosen(data, found):
    again = zoo.reliability(REF, "ethos-u55-128", data=data, **QUICK)
    assert again.to_json() == found.to_json()
    flops = zoo.reliability(REF, "ethos-u55-128", data=data, registers="flop", **QUICK)
    assert [row["register"] for row in flops.tables["register"]] == ["activation", "weight"]


@pytest.mark.parametrize("flow", ["output-stationary", "weight-stationary", "uniform"])
def test_other_arrays_need_no_device(data, flow):
    array = None if flow == "uniform" else "8x8"
    result = zoo.reliability(REF, data=data, dataflow=flow, array=array, **QUICK)
    assert result.target == ""
    assert ("flip_rate_all_cycles" in result.estimates) == (flow != "uniform")


@pytest.mark.parametrize("device", ["ethos-u55-32", "ethos-u55-256", "ethos-u65-256"])
def test_every_target_with_registers_answers(data, device):
    result = zoo.reliability(REF, device, data=data, **QUICK)
    assert any("activation: 256 bits" in line for line in result.assumed) == device.endswith("256")
    assert result.facts["live_share"] < 1


def test_a_result_goes_into_the_checkpoint_and_its_card(data, tmp_path, capsys):
    copy = tmp_path / "mine"
    shutil.copytree(zoo.checkpoint(REF).path, copy)
    (copy / "README.md").write_text(render(zoo.checkpoint(copy)))
    words = ["reliability", str(copy), "--target", "ethos-u55-128", "--data", str(data)]
    words += ["--samples", "20", "--faults", "400", "--record", "noise-pictures"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kept = zoo.checkpoint(copy).metrics["reliability"]["noise-pictures"]
    assert kept["estimates"] == found["estimates"]
    assert "tables" not in kept
    card = (copy / "README.md").read_text()
    row = next(line for line in card.splitlines() if "| flip rate |" in line)
    text = Estimate(**found["estimates"]["flip_rate"]).text
    assert row == f"| noise-pictures, ethos-u55-128 | flip rate | {text} | estimated |"
    for text in (
        "micro-blocks of 2 x 8",
        "reconstructed from the abstract",
        "faults.",
        "accumulator are assumed",
    ):
        assert text in card
    assert card == render(zoo.checkpoint(copy))  # written anew, since nobody had edited it
    (copy / "README.md").write_text("my own words")
    assert main(words) == 0
    assert (copy / "README.md").read_text() == "my own words"


def test_the_card_of_an_attack_says_what_defended():
    facts = {"data": "20 images", "attack": "fgsm:eps=2/255", "defend": "jpeg:75"}
    kept = {"mine": {"target": "", "facts": facts, "assumed": [], "notes": []}}
    told = section.lines({section.PART: kept})
    assert told == ["mine: 20 images; fgsm:eps=2/255; defence: jpeg:75."]


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "a|b"])
def test_a_result_without_a_name_is_refused_before_the_work(data, tmp_path, name):
    shutil.copytree(zoo.checkpoint(REF).path, tmp_path / "mine")
    with pytest.raises(MismatchError, match="expected a name for the card"):
        zoo.reliability(tmp_path / "mine", "ethos-u55-128", data=data, record=name, **QUICK)


def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_work(data, monkeypatch):
    def full(folder):
        raise MismatchError(f"cannot write into {folder}: Read-only file system")

    monkeypatch.setattr("zoo.verbs.recording.probe", full)
    with pytest.raises(MismatchError, match="Read-only"):
        zoo.reliability(REF, "no-such-device", data=data, record="a", **QUICK)


def test_noise_is_recorded_too(data, tmp_path):
    copy = tmp_path / "mine"
    shutil.copytree(zoo.checkpoint(REF).path, copy)
    zoo.reliability(copy, data=data, samples=10, noise="gauss:0.02", chips=2, record="tiles")
    with pytest.raises(MismatchError, match="result of noise, which would be lost"):
        zoo.reliability(copy, "ethos-u55-128", data=data, record="tiles", **QUICK)
    card = render(zoo.checkpoint(copy))
    assert "| tiles | drop |" in card
    assert "gauss:0.02" in card


def test_protection_is_planned_and_drawn(data, tmp_path):
    options = {"protect": "asil-d", "fit_budget": 1.0}
    result = zoo.reliability(REF, "ethos-u55-128", data=data, **options, **QUICK)
    assert result.facts["verdicts"]["unprotected"] == "fails"
    assert result.facts["verdicts"]["protected"] == "meets"
    assert result.facts["verdicts"]["fit_budget"] == "meets"
    assert result.estimates["spfm_protected"].low >= 99
    assert "ASIL-D without protection: fails; with " in result.summary
    assert result.summary.endswith(" % more area: meets; 1 FIT without protection: meets")
    with Image.open(result.save(tmp_path / "front.png")) as picture:
        assert picture.width == 1500
    mine = tmp_path / "areas.toml"
    mine.write_text(
        '[control]\nkind = "control"\nbits = 100\nfit_per_mbit = 20\narea = 0.1\n'
        'flop_area_share = 0.5\nunsafe = [0.001, 0.002]\nconfidence = "assumed"\nsource = "ours"\n'
    )
    own = zoo.reliability(REF, "ethos-u55-128", data=data, areas=str(mine), **options, **QUICK)
    assert own.estimates["spfm"].value > result.estimates["spfm"].value
    mine.write_text(mine.read_text().replace('source = "ours"\n', ""))
    with pytest.raises(MismatchError, match=r"areas.toml: reliability.control.source is missing"):
        zoo.reliability(REF, "ethos-u55-128", data=data, areas=str(mine), **options, **QUICK)


def test_the_command_prints_tables_and_json(data, capsys, tmp_path):
    words = ["reliability", REF, "--target", "ethos-u55-128", "--data", str(data)]
    words += ["--samples", "20", "--faults", "400", "--out", str(tmp_path / "heat.png")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "by register:" in shown
    assert "resiliency" in shown
    assert (tmp_path / "heat.png").is_file()
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["analysis"] == "faults"


def test_the_help_lists_what_can_be_examined(capsys):
    for words, flag in (([], "--dataflow"), (["--protect", "asil-d"], "--fit-budget")):
        with pytest.raises(SystemExit):
            main(["reliability", *words, "--help"])
        shown = capsys.readouterr().out
        assert flag in shown
        assert all(contract.find(name).SUMMARY.split(",")[0] in shown for name in contract.names())


WRONG = [
    ("mlperf-tiny-ic.cifar10", {}, "give int8 weights: mlperf-tiny-ic.cifar10-int8"),
    ("sesr-m5-x2.free-int8", {}, "no right and wrong answers"),
    (REF, {"data": None}, "--data DIR"),
    (REF, {"data": "no/such"}, "no such folder"),
    (REF, {"data": __file__}, "test_verb.py is a file; expected the folder"),
    (REF, {"target": None}, "which device"),
    (REF, {"target": "ethos-u65-512"}, "ethos-u65-512 has none; take one of ethos-u55-128"),
    (REF, {"target": "ethos-u85-256"}, "ethos-u85-256 has none; take one of ethos-u55-128"),
    (REF, {"target": "stm32f746-216mhz-cmsisnn"}, "no array of multipliers"),
    (REF, {"target": "ethos-u55-129"}, "did you mean ethos-u55-128"),
    (REF, {"faults": None}, "fewer than 50"),
    (REF, {"dataflow": "weight-stationery"}, "did you mean weight-stationary"),
    (REF, {"registers": "flops"}, "did you mean flop"),
    (REF, {"array": "16", "dataflow": "output-stationary"}, "e.g. 16x16"),
    (REF, {"precision": 0}, "--precision 0"),
    (REF, {"precision": -1}, "--precision -1"),
    (REF, {"faults": 3}, "expected 100 or more"),
    (REF, {"seed": -1}, "--seed -1"),
    (REF, {"protect": "asil-x"}, "asil-b, asil-c, asil-d"),
    (REF, {"fit_budget": 1}, "--fit-budget goes with --protect"),
    (
        REF,
        {"faults": None, "noise": "factor:1", "fit_budget": 1},
        "--fit-budget goes with --protect, not with",
    ),
    (REF, {"noise": "gauss:0.1"}, "--faults is an option of single faults and does not go with"),
    (REF, {"array": "8x8"}, "--array 8x8 goes with --dataflow output-stationary"),
    (REF, {"array": "8x8", "dataflow": "uniform"}, "software has no array"),
    (REF, {"array": "100000x100000", "dataflow": "weight-stationary"}, "to 1,048,576 multipliers"),
    (REF, {"target": "ethos-u55-128,ethos-u55-256"}, "is several targets, and one is expected"),
    (REF, {"precision": 0.5}, "--faults takes the place of --precision"),
    (REF, {"faults": 10**12}, "at most 100,000,000"),
    (REF, {"registers": "weight,,weight"}, "has an empty name"),
    (REF, {"registers": ","}, "has an empty name"),
    (REF, {"state": "x.txt"}, "NAME.json"),
    (REF, {"state": "/proc/x.json"}, "cannot write into /proc"),
    (REF, {"protect": "asil-d", "target": None}, "give --target"),
    (REF, {"protect": "asil-d", "areas": "."}, "expected a TOML file"),
    (REF, {"faults": None, "noise": "gauss:0.1", "seed": 10**25}, "less than 2**32"),
    (REF, {"faults": None, "attack": "pgd:steps=1,seed=99999999999999999999"}, "less than 2**32"),
    (REF, {"protect": "asil-d", "fit_budget": 0}, "--fit-budget 0"),
    (REF, {"protect": "asil-d", "areas": "none.toml"}, "no such file"),
    (REF, {"fault": 300}, "did you mean faults"),
    (REF, {"precision": "high"}, "option precision"),
]


@pytest.mark.parametrize(("ref", "changes", "message"), WRONG)
def test_what_cannot_be_examined_is_refused_in_words(data, ref, changes, message):
    given = {"target": "ethos-u55-128", "data": data, **QUICK, **changes}
    with pytest.raises(ZooError) as error:
        zoo.reliability(ref, given.pop("target"), **given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_that_is_right_on_nothing_is_refused(tmp_path):
    with pytest.raises(MismatchError, match=r"none of the \d+ inputs right"):
        zoo.reliability(REF, "ethos-u55-128", data=painted(tmp_path, 3), faults=400)


def test_two_analyses_at_once_and_unknown_ones_are_refused(monkeypatch):
    two = {"noise": "faults", "protect": "protect"}
    monkeypatch.setattr(contract, "choices", lambda: two)
    with pytest.raises(MismatchError, match="noise and protect are two analyses"):
        contract.chosen(["noise", "protect"])
    with pytest.raises(UnknownNameError, match="did you mean"):
        contract.find("fault")


def test_an_estimate_outside_its_interval_is_none():
    with pytest.raises(MismatchError, match="outside its interval"):
        Estimate(value=2.0, low=0.0, high=1.0, known="estimated")
    with pytest.raises(MismatchError, match="outside its interval"):
        Estimate(value=float("nan"), low=0.0, high=1.0, known="estimated")
    assert Estimate(value=1.234, low=1.2, high=1.3, known="measured", unit="%").text == (
        "1.234 % (1.200 to 1.300)"
    )
    one = Estimate(value=1.0, low=1.0, high=1.0, known="exact")
    bare = Reliability(
        analysis="a", ref="r", target="", summary="s", main="m", estimates={"m": one}
    )
    with pytest.raises(MismatchError, match=r"saved as NAME.json"):
        bare.save("a.png")


def test_long_names_of_layers_keep_their_ends():
    from zoo.cli.examining import _cells

    assert _cells({"layer": "a" * 300 + "/conv2d_7", "share": 0.5}) == [
        "…" + "a" * 38 + "/conv2d_7",
        "0.5",
    ]
    assert _cells({"layer": "a" * 48, "lost": None}) == ["a" * 48, "-"]


def test_a_name_that_cannot_be_saved_is_refused_before_the_work(capsys):
    words = ["reliability", "none-such", "--target", "ethos-u55-128", "--out"]
    for out, message in (
        (["a.txt"], "--out a.txt: a result is saved as NAME.png or NAME.json"),
        (["/proc/x.png"], "cannot write into /proc"),
        (["a.json", "--state", "./a.json"], "a.json is the file of --state"),
    ):
        assert main([*words, *out]) == 1
        assert message in capsys.readouterr().err


def test_what_goes_with_another_analysis_is_no_unknown_flag(capsys):
    for words, message in (
        (["--noise", "gauss:0.1", "--faults", "300"], "--faults is an option of single faults"),
        (["--chips", "3"], "--chips goes with --noise, which is not given"),
    ):
        assert main(["reliability", REF, *words]) == 1
        assert message in capsys.readouterr().err


def test_a_name_that_is_empty_is_no_name(capsys):
    for flags in (["--state", ""], ["--protect", "asil-d", "--areas", ""]):
        with pytest.raises(SystemExit):
            main(["reliability", REF, *flags])
        assert "is empty; expected a name" in capsys.readouterr().err


def test_a_goal_that_is_met_needs_no_area(data):
    found = zoo.reliability(REF, "ethos-u55-128", data=data, protect="0.1", **QUICK)
    assert found.summary.endswith(": SPFM 0.1 without protection: meets")


def test_noise_that_helps_is_no_loss():
    assert noise._change(-5.04) == "gains 5.0 points of accuracy under"
    assert noise._change(5.04) == "loses 5.0 points of accuracy to"


def test_an_interval_of_an_accuracy_on_few_inputs_stays_one(data):
    found = zoo.reliability(REF, data=data, samples=5, noise="gauss:0.3", chips=2)
    for name in ("clean", "noisy", "worst_chip"):
        assert 0 <= found.estimates[name].low <= found.estimates[name].high <= 100
