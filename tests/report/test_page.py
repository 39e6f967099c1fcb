"""The report's page: whole, offline, every count right, and nothing that came from files is anything but text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from report.hostile import DATASET, INDICES, NAMES, QUOTED, REFUSED, SCRIPT, make_hostile
from samples import words

from gpupeak import ExtractConfig
from gpupeak.cli.app import main
from gpupeak.report import page, sheets
from gpupeak.report.contents import overview
from gpupeak.report.page import render, write_page


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""


class Document(HTMLParser):
    """Every element of a page with its attributes and its own text, up to what is in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.elements[-1].text += data

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.all("script")[0].text)
        return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> ExtractConfig:
    return make_hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def text(corpus: ExtractConfig) -> str:
    return "".join(render(overview(corpus, show=len(NAMES), show_samples=[REFUSED])))


@pytest.fixture(scope="module")
def document(text: str) -> Document:
    return Document(text)


def test_names_and_reasons_stay_text(document: Document, text: str) -> None:
    assert len(document.all("script")) == 2
    assert [image.attributes["src"][:5] for image in document.all("img")] == ["data:"] * 8 * len(NAMES)
    assert not [name for element in document.elements for name in element.attributes if name.startswith("on")]
    titles = [element.text for element in document.all("h3")]
    assert titles[0] == DATASET
    assert {*NAMES, REFUSED} == set(titles[1:])
    assert "not shown: find: no video file of this name" in [element.text for element in document.all("p")]
    assert "49" not in titles
    assert "alert(3)</script>" not in text
    assert "onerror=alert(1)>" not in text
    (script,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert not set("<>&'\u2028\u2029") & set(script)


def test_every_sample_is_in_the_data_as_it_is(document: Document) -> None:
    rows, words, outcomes = (document.data[key] for key in ("rows", "words", "outcomes"))
    assert rows["name"] == [*NAMES, REFUSED, "missing"]
    assert [outcomes[place] for place in rows["outcome"]] == ["saved"] * 11 + ["failed", "missing"]
    assert [words[place] for place in rows["remarks"][11]] == [f"{SCRIPT}: {QUOTED}"]
    warned = [f"fell back: {SCRIPT}", f"clamped: {QUOTED}", SCRIPT, "a single frame"]
    assert [words[place] for place in rows["remarks"][0]] == warned
    assert rows["warned"] == [1] + [0] * 12
    assert [words[place] for place in rows["source"]] == ["", *[SCRIPT] * 10, "", ""]
    assert rows["indices"][0] == INDICES
    assert {len(column) for column in rows.values()} == {13}
    assert rows["sheet"] == [*range(12), -1]


def test_the_figures_are_those_of_the_run(document: Document) -> None:
    figures = {e.attributes["data-count"]: int(e.text) for e in document.all("dd") if "data-count" in e.attributes}
    ones, none = (
        dict.fromkeys(("fell back", "warned of", "failed", "missing"), 1),
        dict.fromkeys(("unusual", "broken"), 0),
    )
    assert figures == {"saved": 11, "from a peak": 10, "clamped": 11, **ones, **none}
    texts = {element.text for element in document.elements}
    assert {"11 of 13 samples have their features, 1 fell back", "11 of 13 saved", "100.0 ms a sample"} <= texts
    assert f"weights random:{SCRIPT}: these features mean nothing" in texts
    assert {"Warned of, because", "a single frame"} <= texts


def test_pictures_are_the_frames(document: Document) -> None:
    for image in document.all("img"):
        kind, _, data = image.attributes["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            assert picture.size == (240, 160)
        assert image.attributes["alt"].startswith("frame ")
    peaks = [element for element in document.all("li") if element.attributes.get("class") == "at-peak"]
    assert len(peaks) == 10


def test_the_curve_has_the_peak_and_the_chosen_frames_on_it(document: Document) -> None:
    (line,) = document.all("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attributes["points"].split()]
    assert len(points) == 40
    assert min(points, key=lambda point: point[1])[0] == pytest.approx(1000 * 20 / 39, abs=0.1)
    curve = document.elements.index(line)
    marks = [element for element in document.elements[curve - 9 : curve] if element.tag == "line"]
    at = [float(mark.attributes["x1"]) for mark in marks]
    assert at[:8] == [pytest.approx(1000 * index / 39, abs=0.1) for index in INDICES]
    assert (marks[8].attributes["class"], at[8]) == ("peak", at[4])


def test_the_page_asks_nothing_of_the_network_and_runs_only_its_own_program(document: Document) -> None:
    assert not document.all("link")
    for element in document.elements:
        assert "style" not in element.attributes  # the policy would drop it
        for name in ("src", "href"):
            assert element.attributes.get(name, "#").startswith(("#", "data:image/"))
    (policy,) = (e.attributes["content"] for e in document.all("meta") if "http-equiv" in e.attributes)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    (style,) = document.all("style")
    program = document.all("script")[-1]
    for rule, element in (("style-src", style), ("script-src", program)):
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not re.search(r"url\(|@import|https?:", style.text + program.text)


def test_the_program_shows_text_as_text_only() -> None:
    program = Path(page.__file__).with_name("page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch|XMLHttp", program)


def test_a_dataset_without_anything_has_its_page(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\nb\n")
    config = ExtractConfig(videos=tmp_path, name="mine", samples=tmp_path / "list.txt", output_root=tmp_path / "none")
    (empty,) = overview(config)
    empty.expected = 5
    empty.remarks.append("file \udc80")  # a name that is no Unicode
    write_page([empty], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "file \\udc80" in text
    assert [e.text for e in Document(text).all("h1")] == ["0 of 5 samples have their features, 3 not listed"]


def test_a_place_that_takes_no_file_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gpupeak.report.contents.overview", None)
    for file, why in ((tmp_path / "none" / "x.html", "No such file or directory"), (tmp_path, "Is a directory")):
        assert main(["report", "--output-root", str(tmp_path), "--out", str(file)]) == 3
        assert capsys.readouterr().err == f"error: {file}: cannot be written: {why}\n"


def test_the_command_writes_the_file_and_tells_the_counts(
    corpus: ExtractConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    report = ["report", *words(corpus), "--out", str(out), "--show-unusual", "0"]
    assert main([*report, "--show", "1", "--show-samples", NAMES[1], NAMES[3], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], told["error"], told["file"]) == (0, None, str(out))
    assert told["bytes"] == out.stat().st_size
    (dataset,) = told["datasets"]
    assert (dataset["saved"], dataset["failed"], dataset["missing"], dataset["sheets"]) == (11, 1, 1, 3)
    assert main([*report, "--show", "0"]) == 0
    assert capsys.readouterr().out.endswith(" kB, 13 samples of 1 dataset, 0 contact sheets\n")


def test_without_what_draws_the_page_it_is_said_what_to_install(
    corpus: ExtractConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.html"
    monkeypatch.setattr(sheets, "find_spec", lambda name: None if name == "jinja2" else name)
    assert main(["report", *words(corpus), "--out", str(out)]) == 2
    assert capsys.readouterr().err == "error: this needs jinja2: pip install 'gpupeak[report]'\n"
    assert not out.exists()
