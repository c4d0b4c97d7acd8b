"""The guide is whole: its tables are fresh, it builds, no link is dead, and no page asks another
host for anything."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from docs.make import counts, networks, rooms, tables
from tests.docs.transcript import ROOT, pages
from tests.recipes import LARGE, of_each_kind
from zoo import registry

COSTS = "docs/tables/costs.md"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page == COSTS else [])
        for page in tables.PAGES
    ],
)
def test_the_tables_say_what_the_files_say(page: str) -> None:
    stands = (ROOT / page).read_text(encoding="utf-8")
    assert tables.fresh(page) == stands, "type: make tables"


def test_the_costs_of_a_network_of_each_task_are_those_of_the_table() -> None:
    """All networks have their rows; those of the smallest of each task are computed anew."""
    stands = (ROOT / COSTS).read_text(encoding="utf-8")
    assert tables.with_table(stands, "costs", tables.costs()) == stands, "type: make tables"
    table = stands.partition("<!-- all-costs -->\n")[2].partition("\n<!-- /all-costs -->")[0]
    by_size = sorted(networks.networks(), key=lambda one: registry.counts()[one.name]["macs"])
    smallest = {recipe.subtask: recipe for recipe in reversed(by_size)}.values()
    chosen = [recipe for recipe in networks.networks() if recipe in smallest]
    others = {recipe.name for recipe in networks.networks()} - {recipe.name for recipe in chosen}
    named = [(*re.findall(r"^\| `(.+?)`", line), "")[0] for line in table.splitlines()]
    assert others <= set(named), "type: make tables"
    rows = [
        line for line, name in zip(table.splitlines(), named, strict=True) if name not in others
    ]
    assert rows == networks.costs_by_target(chosen).splitlines(), "type: make tables"


def test_the_counts_that_are_listed_are_those_of_the_networks() -> None:
    found = networks.networks()
    assert set(registry.counts()) == {recipe.name for recipe in found}, "type: make tables"
    # Those of one of each kind, but for the few that take seconds each.
    for recipe in of_each_kind(found):
        if registry.counts()[recipe.name]["parameters"] > LARGE:
            continue
        assert registry.counts()[recipe.name] == counts.counted(recipe), "type: make tables"


def test_the_drawing_of_the_house_is_of_this_house() -> None:
    assert rooms.svg() == rooms.PICTURE.read_text(encoding="utf-8"), "type: make tables"


class Html(HTMLParser):
    """Where a page links to, what it loads, and the names of its places."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(values["href"])
        elif "src" in values:
            self.loaded.append(values["src"])


@pytest.fixture(scope="module")
def site(guide: Path) -> dict[Path, Html]:
    """The built guide: each page, read."""
    found = {}
    for path in guide.rglob("*.html"):
        found[path] = Html()
        found[path].feed(path.read_text(encoding="utf-8"))
    assert len(found) > 25
    return found


def test_every_link_of_the_guide_leads_somewhere(site: dict[Path, Html]) -> None:
    dead = []
    for path, page in site.items():
        if path.name == "404.html":  # its links are those of the root
            continue
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not place.exists():
                dead.append(f"{path.name}: {link}")
            elif parts.fragment and place in site:
                known = site[place].places | {"__search", "__drawer", "__toc"}
                if unquote(parts.fragment) not in known:
                    dead.append(f"{path.name}: {link}")
    assert not dead


def test_no_page_loads_anything_from_another_host(site: dict[Path, Html]) -> None:
    foreign = {
        link for page in site.values() for link in page.loaded if urlsplit(link).netloc
    }  # fmt: skip
    assert not foreign
    for sheet in {path.parent for path in site}.pop().parent.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8"))


LINK = re.compile(r"\]\(([^)\s]+)\)|\bsrc=\"([^\"]+)\"|\bhref=\"([^\"]+)\"")


def anchors(text: str) -> set[str]:
    """The names that a code host gives to a page's headings."""
    bare = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ +(.+?)\s*$", bare, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "adapters/README.md"]
)
def test_links_between_files_of_the_repository_hold(name: str) -> None:
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    dead = []
    for link in {part for found in LINK.findall(text) for part in found if part}:
        parts = urlsplit(link)
        if parts.scheme:
            continue
        place = page.parent / parts.path if parts.path else page
        if place.exists() and parts.fragment:
            names = anchors(place.read_text(encoding="utf-8"))
        else:
            names = {parts.fragment}
        if not place.exists() or parts.fragment not in names:
            dead.append(link)
    assert not dead


def test_every_page_is_in_the_guide() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in pages()[1:]:
        name = path.relative_to(ROOT / "docs").as_posix()
        assert name in listed or name.startswith("samples/")
