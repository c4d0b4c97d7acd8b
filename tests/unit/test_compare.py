"""`zoo compare`: one table of models of a task, from what their checkpoints have recorded."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import zoo
from zoo.cards.model import render
from zoo.cli import main
from zoo.cost.comparison import Contender, Contest, bytes_of, qualities, shared
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry.checkpoint import Checkpoint
from zoo.tasks import task_of

KWS = ["mlperf-tiny-kws", "mlperf-tiny-kws.fsdd-int8", "micronet-kws-s.fsdd"]


def facts(name: str) -> Any:
    return task_of(zoo.find(name)).FACTS


@pytest.fixture(scope="module")
def words() -> Contest:
    return zoo.compare(KWS, method="roofline")


def test_bytes_macs_metric_and_time_are_those_of_each_model(words: Contest) -> None:
    assert [one.name for one in words.contenders] == KWS
    assert words.metric.key == "accuracy"
    assert words.data == "FSDD test"
    for name, one in zip(KWS, words.contenders, strict=True):
        source = zoo.checkpoint(name)
        assert one.quality.value == source.metrics["evaluations"]["FSDD test"]["accuracy"]
        cost = zoo.estimate(name, "ethos-u55-256", method="roofline")
        assert (one.cost.latency_ms, one.macs) == (cost.latency_ms, cost.macs)
        if source.quantization is None:
            assert one.stored_bytes == sum(4 * t.numel() for t in source.state_dict().values())
        else:
            assert one.stored_bytes == source.metrics["compression"]["tensor_bytes"]


def test_a_model_is_beaten_by_one_that_is_as_good_everywhere(words: Contest) -> None:
    whole, integers, other = words.contenders
    assert whole.quality.value == integers.quality.value  # and more bytes
    assert whole not in words.front
    assert integers in words.front
    again = Contest(contenders=(integers, dataclasses.replace(integers, name="twin"), other))
    assert integers in again.front  # of two that are alike, neither beats the other
    worse = dataclasses.replace(other.quality, value=other.quality.value - 0.1)
    losing = dataclasses.replace(integers, quality=worse, name="worse")
    assert losing not in Contest(contenders=(integers, losing)).front


def test_of_a_perplexity_less_is_better(words: Contest) -> None:
    metric = dataclasses.replace(words.metric, key="perplexity", better="lower")
    low, high = (
        dataclasses.replace(
            words.contenders[1],
            quality=dataclasses.replace(words.contenders[1].quality, metric=metric, value=value),
        )
        for value in (10.0, 12.0)
    )
    assert Contest(contenders=(low, high)).front == (low,)


def test_intervals_are_those_of_textbooks() -> None:
    """Wilson 1927 for a share, Student for a mean; values from their published tables."""
    word = facts("mlperf-tiny-kws")
    result = {"FSDD": {"accuracy": 0.81, "clips": 263}}  # Agresti and Coull's kind of example
    ends = qualities({"evaluations": result}, word)["FSDD", "accuracy"].interval
    assert ends == pytest.approx((0.7583, 0.8528), abs=2e-3)
    none = {"FSDD": {"accuracy": 1.0, "clips": 10}}  # Wilson: n / (n + z^2) to 1
    ends = qualities({"evaluations": none}, word)["FSDD", "accuracy"].interval
    assert ends == pytest.approx((10 / (10 + 1.959964**2), 1.0))
    picture = facts("sesr-m5-x2")
    values = [30.0, 32.0, 34.0, 36.0, 38.0]
    each = [{"psnr_y_db": value} for value in values]
    result = {"Set5": {"psnr_y_db": 34.0, "images": 5, "per_image": each}}
    ends = qualities({"evaluations": result}, picture)["Set5", "psnr_y_db"].interval
    half = 2.776 * math.sqrt(10 / 5)  # t of 4 degrees of freedom
    assert ends == pytest.approx((34 - half, 34 + half), rel=3e-3)
    two = {"Set2": {"psnr_y_db": 31.0, "images": 2, "per_image": each[:2]}}
    assert qualities({"evaluations": two}, picture)["Set2", "psnr_y_db"].interval is None
    alone = {"X": {"psnr_y_db": 31.0, "images": 9}}
    assert qualities({"evaluations": alone}, picture)["X", "psnr_y_db"].interval is None


def test_the_command_prints_a_table_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["compare", *KWS, "--method", "roofline"]
    assert main([*typed, "--out", str(tmp_path / "front.png")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["MODEL", "BYTES", "MACS"]
    assert printed[2].endswith("estimated  no")
    assert "0.9933 (0.9760 to 0.9982)" in printed[1]
    with Image.open(tmp_path / "front.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 3
    assert main([*typed, "--json", "--target", "stm32f746-216mhz-cmsisnn"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["target"] == "stm32f746-216mhz-cmsisnn"
    assert said["models"][0]["beaten"] is True
    assert said["models"][0]["obtained"]["bytes"] == "exact"
    assert said["models"][0]["interval"] == pytest.approx([0.976, 0.99817], abs=1e-4)


def test_folders_with_others_data_are_measured_now(tmp_path: Path) -> None:
    folder = shutil.copytree(zoo.checkpoint("sesr-m3-x2.bsds").path, tmp_path / "mine")
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(MismatchError, match=r"nothing was measured of .*mine: add --data DIR"):
        zoo.compare([folder, "sesr-m5-x2.bsds"])
    pictures = tmp_path / "few"
    pictures.mkdir()
    for seed in range(3):
        noise = torch.randint(0, 255, (8, 8, 3), generator=torch.Generator().manual_seed(seed))
        small = Image.fromarray(noise.byte().numpy())
        small.resize((32, 32), Image.Resampling.BICUBIC).save(pictures / f"{seed}.png")
    found = zoo.compare([folder, "sesr-m5-x2.bsds"], data=pictures, method="roofline")
    assert found.data == "few"
    assert found.contenders[0].name == str(folder)
    expected = zoo.evaluate(folder, pictures)["psnr_y_db"]
    assert found.contenders[0].quality.value == expected
    assert found.contenders[0].quality.interval is not None  # of three pictures there is one
    one = zoo.compare([folder, folder], data=pictures, metric="ssim_y", method="roofline")
    assert one.metric.key == "ssim_y"


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="takes two models or more: zoo compare A B"):
        zoo.compare(["sesr-m3-x2"])
    with pytest.raises(MismatchError, match="takes two models or more"):
        zoo.compare("sesr-m3-x2")
    with pytest.raises(MismatchError, match="sesr-m3-x2 for super-resolution, mlperf-tiny-kws for"):
        zoo.compare(["sesr-m3-x2", "mlperf-tiny-kws"])
    with pytest.raises(MismatchError, match="has no metric 'acuracy'; it has accuracy, loss"):
        zoo.compare(KWS, metric="acuracy")
    with pytest.raises(MismatchError, match=r"ends in \.png"):
        zoo.compare(KWS, out=tmp_path / "x.jpg")
    with pytest.raises(MismatchError, match=r"on the same data \(.*Speech Commands\): add --data"):
        zoo.compare(["micronet-kws-s.fsdd", "micronet-kws-s.synthetic"])
    with pytest.raises(UnknownNameError, match="micronet-kws-s"):
        zoo.compare(["micronet-kws-s", "micronet-kws-z"])
    with pytest.raises(UnknownNameError, match="target"):
        zoo.compare(KWS, target="ethos-u99")
    file = zoo.export("sesr-m3-x2", tmp_path / "a.tflite", format="tflite").path
    with pytest.raises(MismatchError, match="does not say what it is for"):
        zoo.compare([file, "sesr-m3-x2"])


def test_the_command_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "sesr-m3-x2"]) == 1
    assert capsys.readouterr().err == (
        "zoo: a comparison takes two models or more: zoo compare A B\n"
    )


def test_a_card_shows_a_compressed_network_beside_its_base(tmp_path: Path) -> None:
    shipped = zoo.checkpoint("mlperf-tiny-kws.fsdd-int8")
    card = render(shipped)
    row = next(line for line in card.splitlines() if line.startswith("| mlperf-tiny-kws.fsdd |"))
    base = zoo.checkpoint("mlperf-tiny-kws.fsdd")
    assert f"| {bytes_of(base):,} | 2,656,768 |" in row
    made = zoo.compress("sesr-m3-x2.bsds", tmp_path / "low", method="lowrank", whiten=False,
                        ranks="uniform", keep=0.6)  # fmt: skip
    assert made.metrics["base"]["name"] == "sesr-m3-x2.bsds"
    assert "Beside its base" not in (made.path / "README.md").read_text()  # nothing measured yet
    result = zoo.checkpoint("sesr-m3-x2.bsds").metrics["evaluations"]["Set5"]
    made = made.record("Set5", {**result, "psnr_y_db": 30.0})
    card = render(made)
    assert "| sesr-m3-x2.bsds | 36,112 |" in card
    assert f"| {made.label} | {bytes_of(made):,} |" in card
    assert Checkpoint.read(made.path).metrics["base"]["bytes"] == 36112


def test_what_two_share_is_the_first_of_the_first() -> None:
    task = facts("mlperf-tiny-kws")
    a = {"evaluations": {"X": {"accuracy": 0.5, "loss": 1.0}, "Y": {"loss": 2.0}}}
    b = {"evaluations": {"Y": {"loss": 3.0}, "X": {"loss": 4.0}}}
    pair = shared(a, b, task)
    assert pair is not None
    assert [(one.data, one.metric.key, one.value) for one in pair] == [
        ("X", "loss", 1.0), ("X", "loss", 4.0),
    ]  # fmt: skip
    assert shared(a, {"evaluations": {}}, task) is None


def test_a_contender_is_plain_data(words: Contest) -> None:
    assert isinstance(words.contenders[0], Contender)
    assert json.loads(json.dumps(words.to_json())) == words.to_json()
    assert "<td>2,656,768</td>" in words._repr_html_()
