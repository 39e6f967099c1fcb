"""The report's page: whole, offline, every count right, and nothing that came from files is anything but text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from PIL import Image
from report.document import parsed
from report.hostile import DATASET, INDICES, NAMES, QUOTED, REFUSED, SCRIPT, make_hostile
from samples import words

from gpupeak import ExtractConfig
from gpupeak.cli.app import main
from gpupeak.report import page, sheets
from gpupeak.report.contents import overview
from gpupeak.report.page import render, write_page


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> ExtractConfig:
    return make_hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def text(corpus: ExtractConfig) -> str:
    return "".join(render(overview(corpus, show=len(NAMES), show_samples=[REFUSED])))


@pytest.fixture(scope="module")
def document(text: str) -> Element:
    return parsed(text)


def test_names_and_reasons_stay_text(document: Element, text: str) -> None:
    assert len(list(document.iter("script"))) == 2
    assert [image.attrib["src"][:5] for image in document.iter("img")] == ["data:"] * 8 * len(NAMES)
    assert not [name for element in document.iter() for name in element.attrib if name.startswith("on")]
    titles = [element.text for element in document.iter("h3")]
    assert titles[0] == DATASET
    assert {*NAMES, REFUSED} == set(titles[1:])
    assert "not shown: find: no video file of this name" in [element.text for element in document.iter("p")]
    assert "49" not in titles
    assert "alert(3)</script>" not in text
    assert "onerror=alert(1)>" not in text
    (script,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert not set("<>&'\u2028\u2029") & set(script)


def test_every_sample_is_in_the_data_as_it_is(document: Element) -> None:
    data = json.loads(next(document.iter("script")).text or "")
    rows, words, outcomes = (data[key] for key in ("rows", "words", "outcomes"))
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


def test_the_figures_are_those_of_the_run(document: Element) -> None:
    figures = {e.attrib["data-count"]: int(e.text or "") for e in document.iter("dd") if "data-count" in e.attrib}
    ones, none = (
        dict.fromkeys(("fell back", "warned of", "failed", "missing"), 1),
        dict.fromkeys(("unusual", "broken"), 0),
    )
    assert figures == {"saved": 11, "from a peak": 10, "clamped": 11, **ones, **none}
    texts = {element.text for element in document.iter()}
    assert {"11 of 13 samples have their features, 1 fell back", "11 of 13 saved", "100.0 ms a sample"} <= texts
    assert f"weights random:{SCRIPT}: these features mean nothing" in texts
    assert {"Warned of, because", "a single frame"} <= texts


def test_pictures_are_the_frames(document: Element) -> None:
    for image in document.iter("img"):
        kind, _, data = image.attrib["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            assert picture.size == (240, 160)
        assert image.attrib["alt"].startswith("frame ")
    peaks = [element for element in document.iter("li") if element.attrib.get("class") == "at-peak"]
    assert len(peaks) == 10


def test_the_curve_has_the_peak_and_the_chosen_frames_on_it(document: Element) -> None:
    (line,) = document.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(points) == 40
    assert min(points, key=lambda point: point[1])[0] == pytest.approx(1000 * 20 / 39, abs=0.1)
    elements = list(document.iter())
    curve = elements.index(line)
    marks = [element for element in elements[curve - 9 : curve] if element.tag == "line"]
    at = [float(mark.attrib["x1"]) for mark in marks]
    assert at[:8] == [pytest.approx(1000 * index / 39, abs=0.1) for index in INDICES]
    assert (marks[8].attrib["class"], at[8]) == ("peak", at[4])


def test_the_page_asks_nothing_of_the_network_and_runs_only_its_own_program(document: Element) -> None:
    assert not list(document.iter("link"))
    for element in document.iter():
        assert "style" not in element.attrib  # the policy would drop it
        for name in ("src", "href"):
            assert element.attrib.get(name, "#").startswith(("#", "data:image/"))
    (policy,) = (e.attrib["content"] for e in document.iter("meta") if "http-equiv" in e.attrib)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    (style,) = document.iter("style")
    _, program = document.iter("script")
    for rule, element in (("style-src", style), ("script-src", program)):
        digest = base64.b64encode(hashlib.sha256((element.text or "").encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not re.search(r"url\(|@import|https?:", f"{style.text}{program.text}")


def test_the_program_shows_text_as_text_only() -> None:
    program = Path(page.__file__).with_name("page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch|XMLHttp", program)


def test_a_dataset_without_anything_has_its_page(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\nb\n")
    config = ExtractConfig(videos=tmp_path, name="mine", samples=tmp_path / "list.txt", output_root=tmp_path / "none")
    (empty,) = overview(config)
    assert empty.remarks[0] == f"nothing was extracted: there is no {empty.directory}"
    empty.expected = 5
    empty.remarks.append("file \udc80")  # a name that is no Unicode
    write_page([empty], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "file \\udc80" in text
    assert [e.text for e in parsed(text).iter("h1")] == ["0 of 5 samples have their features, 3 not listed"]


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
