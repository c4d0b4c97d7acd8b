"""Pictures with boxes: COCO files as people have them, and data sets of the Hub."""

import json
import sys

import pytest

from zoo import registry
from zoo.data import coco
from zoo.errors import HubError, MismatchError
from zoo.tasks import object_detection as task

material = sys.modules["zoo.tasks.object_detection.material"]
RECIPE = registry.find("ran-i-detector").in_tiny_form()
LABELS = RECIPE.preprocessing["labels"]


@pytest.fixture
def folder(tmp_path):
    """Thirty pictures in COCO's layout, without splits."""
    task.trial(tmp_path / "data", RECIPE)
    return tmp_path / "data"


def content(folder):
    return json.loads((folder / "annotations.json").read_text())


def rewrite(folder, change):
    found = content(folder)
    change(found)
    (folder / "annotations.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("pictures", "annotations"),
    [
        ("train2017", "annotations/instances_train2017.json"),
        ("images/train", "annotations/instances_train.json"),
        ("images/train", "annotations/train.json"),
        ("train", "train/_annotations.coco.json"),
        ("images", "annotations.json"),
        (".", "annotations.json"),
    ],
)
def test_the_usual_layouts_are_read(folder, tmp_path, pictures, annotations):
    other = tmp_path / "other"
    (other / pictures).mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.png"):
        file.rename(other / pictures / file.name)
    (other / annotations).parent.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.json").rename(other / annotations)
    found = coco.read(other, "train")
    assert len(found) == 30
    assert found.labels == tuple(LABELS)
    assert sum(len(scene.boxes) for scene in found.scenes) == 60


def test_ids_may_have_gaps_and_any_order(folder):
    def change(found):
        for kind, key in (("categories", "category_id"), ("images", "image_id")):
            new = {item["id"]: 7000 - 13 * item["id"] for item in found[kind]}
            for item in found[kind]:
                item["id"] = new[item["id"]]
            for item in found["annotations"]:
                item[key] = new[item[key]]

    before = coco.read(folder)
    rewrite(folder, change)
    after = coco.read(folder)
    assert after.labels == before.labels[::-1]
    for old, new in zip(before.scenes, after.scenes[::-1], strict=True):
        assert (old.boxes == new.boxes).all()
        assert [before.labels[k] for k in old.labels] == [after.labels[k] for k in new.labels]


BROKEN = {
    "no-json": (lambda f: None, "is not JSON"),
    "a-list": ([], "has no lists images, categories, annotations"),
    "category": (lambda f: f["annotations"][3].update(category_id=99),
                 "annotation 4 has category_id 99, which is none of its categories"),
    "image": (lambda f: f["annotations"][3].update(image_id=99), "none of its images"),
    "three-numbers": (lambda f: f["annotations"][0].update(bbox=[1, 2, 3]), "not four numbers"),
    "nan": (lambda f: f["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "not four numbers"),
    "text": (lambda f: f["annotations"][0].update(bbox="1 2 3 4"), "not four numbers"),
    "no-bbox": (lambda f: f["annotations"][0].pop("bbox"), "has no 'bbox', as COCO's"),
    "null": (lambda f: f["annotations"][0].update(bbox=None), "not four numbers"),
    "twice": (lambda f: f["images"][0].update(id=1), "several of the images have the same id"),
    "names": (lambda f: f["categories"][0].update(name="WBC"), "expected names, once"),
    "missing": (lambda f: f["images"][0].update(file_name="no.jpg"), "1 of 30 pictures are"),
    "area": (lambda f: f["annotations"][0].update(area="large"), "COCO's annotations"),
    "outside": (lambda f: f["images"][0].update(file_name="../data/00.png"), "outside of the data"),
}  # fmt: skip


def test_ids_may_be_numbers_and_words(folder):
    def change(found):
        first = found["images"][0]["id"]
        found["images"][0]["id"] = "first"
        for item in found["annotations"]:
            item["image_id"] = "first" if item["image_id"] == first else item["image_id"]

    rewrite(folder, change)
    assert [len(scene.boxes) for scene in coco.read(folder).scenes] == [2] * 30


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_an_error_of_one_line(folder, name):
    change, message = BROKEN[name]
    if name == "no-json":
        (folder / "annotations.json").write_text("{")
    elif name == "a-list":
        (folder / "annotations.json").write_text("[]")
    else:
        rewrite(folder, change)
    with pytest.raises(MismatchError, match=message) as error:
        coco.read(folder)
    assert "\n" not in str(error.value)
    assert str(error.value).count("annotations.json") <= 1


def test_an_area_that_is_written_as_text_is_a_number(folder):
    rewrite(folder, lambda found: found["annotations"][0].update(area="12.5"))
    areas = coco.read(folder).scenes[0].areas
    assert areas.dtype == "float64"
    assert areas[0] == 12.5


def test_a_folder_without_annotations_says_what_is_expected(tmp_path):
    with pytest.raises(MismatchError, match=r"annotations/instances_train.json and train/\*.jpg"):
        coco.read(tmp_path, "train")
    with pytest.raises(MismatchError, match="no such folder"):
        coco.read(tmp_path / "none", "train")


def test_a_data_set_of_the_hub_is_read(folder, monkeypatch):
    import datasets

    found = coco.read(folder)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
                "category": datasets.List(datasets.ClassLabel(names=list(LABELS))),
            },
        }
    )
    rows = {
        "image": [str(scene.source) for scene in found.scenes],
        "objects": [
            {"bbox": s.boxes.tolist(), "category": s.labels.tolist()} for s in found.scenes
        ],
    }
    made = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made)
    data = task.training_data(RECIPE, "org/cells")
    assert (data.facts["source"], data.facts["images"], data.facts["held_out"]) == (
        "org/cells", 27, 3,
    )  # fmt: skip
    own = task.training_data(RECIPE, str(folder))
    for theirs, ours in zip(data.train, own.train, strict=True):
        assert (theirs.boxes == ours.boxes).all()
        assert (material.pixels_of(theirs) == material.pixels_of(ours)).all()
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made.remove_columns("objects"))
    with pytest.raises(MismatchError, match="expected image and objects"):
        task.training_data(RECIPE, "org/cells")

    def fails(name):
        raise ValueError("gone")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(HubError, match="gone"):
        task.training_data(RECIPE, "org/cells")
