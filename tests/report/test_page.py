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

import numpy as np
import pytest
from clips import write_clip
from PIL import Image

from gpupeak import ExtractConfig
from gpupeak.cli.app import main
from gpupeak.features.npy import npy_header
from gpupeak.report import page, sheets
from gpupeak.report.contents import overview
from gpupeak.report.page import render, write_page

HOSTILE = ("<img src=x onerror=alert(1)>", "a&amp;b", "'\"><svg onload=alert(2)>", "样本 1", "{{ 7 * 7 }}")
SCRIPT = "</script><script>alert(3)</script><!--\u2028"


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
    """Five samples with hostile names, a manifest and a run.json that are no friendlier, one failure, one missing."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "videos").mkdir()
    features = root / "out/mi<b>ne/frame_CLIP_VIT_LARGE_emotion_peak_8frms"
    features.mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"sample": "failed", "outcome": "failed", "stage": "decode", "reason": SCRIPT}]
    for number, name in enumerate(HOSTILE):
        write_clip(root / "videos" / f"{name}.mp4", frames=40, seed=number)
        rows = np.random.default_rng(number).normal(1, 1, (8, 768)).astype(np.float32)
        (features / f"{name}.npy").write_bytes(npy_header((8, 768)) + rows.tobytes())
        peak = {"index": 20, "source": SCRIPT}
        entry = {"sample": name, "outcome": "saved", "indices": [0, 5, 18, 19, 20, 21, 22, 39], "frames": 40}
        entry |= {"codec": SCRIPT, "peak": peak if number else None, "clamp": SCRIPT}
        entry |= {"fallback": None if number else {"reason": SCRIPT}, "seconds": {"plan": 0.1, "decode": 0.2}}
        lines.append(entry)
    (features / "manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    (features / "run.json").write_text(json.dumps({"settings": {SCRIPT: SCRIPT}, SCRIPT: [SCRIPT], "device": SCRIPT}))
    csv = "frame, success, AU12_r\n" + "".join(f"{i + 1}, 1, {i % 21 / 4}\n" for i in range(40))
    (root / "aus").mkdir()
    (root / "aus" / "样本 1.csv").write_text(csv)
    (root / "list.json").write_text(json.dumps([*HOSTILE, "failed", "missing"]))
    return ExtractConfig(
        videos=root / "videos", name="mi<b>ne", aus=root / "aus", samples=root / "list.json", output_root=root / "out"
    )


@pytest.fixture(scope="module")
def text(corpus: ExtractConfig) -> str:
    return render(overview(corpus, show_samples=["failed"]))


@pytest.fixture(scope="module")
def document(text: str) -> Document:
    return Document(text)


def test_names_and_reasons_stay_text(document: Document, text: str) -> None:
    assert len(document.all("script")) == 2
    assert [image.attributes["src"][:5] for image in document.all("img")] == ["data:"] * 8 * len(HOSTILE)
    assert not [name for element in document.elements for name in element.attributes if name.startswith("on")]
    titles = [element.text for element in document.all("h3")]
    assert titles[0] == "mi<b>ne"
    assert {*HOSTILE, "failed"} == set(titles[1:])
    assert "not shown: find: no video file of this name" in [element.text for element in document.all("p")]
    assert "49" not in titles
    assert "alert(3)</script>" not in text
    assert "onerror=alert(1)>" not in text
    (script,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert not set("<>&'\u2028\u2029") & set(script)


def test_every_sample_is_in_the_data_as_it_is(document: Document) -> None:
    rows, words, outcomes = (document.data[key] for key in ("rows", "words", "outcomes"))
    assert rows["name"] == [*HOSTILE, "failed", "missing"]
    assert [outcomes[place] for place in rows["outcome"]] == ["saved"] * 5 + ["failed", "missing"]
    assert [words[place] for place in rows["remarks"][5]] == [f"decode: {SCRIPT}"]
    assert [words[place] for place in rows["remarks"][0]] == [f"fell back: {SCRIPT}", f"clamped: {SCRIPT}"]
    assert [words[place] for place in rows["source"]] == ["", *[SCRIPT] * 4, "", ""]
    assert rows["indices"][0] == [0, 5, 18, 19, 20, 21, 22, 39]
    assert {len(column) for column in rows.values()} == {7}
    assert rows["sheet"] == [*range(6), -1]


def test_the_figures_are_those_of_the_run(document: Document) -> None:
    figures = {e.attributes["data-count"]: int(e.text) for e in document.all("dd") if "data-count" in e.attributes}
    ones, none = dict.fromkeys(("fell back", "failed", "missing"), 1), dict.fromkeys(("unusual", "broken"), 0)
    assert figures == {"saved": 5, "from a peak": 4, "clamped": 5, **ones, **none}
    texts = {element.text for element in document.elements}
    assert {"5 of 7 samples have their features", "5 of 7 saved", "100.0 ms a sample"} <= texts


def test_pictures_are_the_frames(document: Document) -> None:
    for image in document.all("img"):
        kind, _, data = image.attributes["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            assert picture.size == (240, 160)
        assert image.attributes["alt"].startswith("frame ")
    peaks = [element for element in document.all("li") if element.attributes.get("class") == "at-peak"]
    assert len(peaks) == 4


def test_the_curve_has_the_peak_and_the_chosen_frames_on_it(document: Document) -> None:
    (line,) = document.all("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attributes["points"].split()]
    assert len(points) == 40
    assert min(points, key=lambda point: point[1])[0] == pytest.approx(1000 * 20 / 39, abs=0.1)
    curve = document.elements.index(line)
    marks = [element for element in document.elements[curve - 9 : curve] if element.tag == "line"]
    at = [float(mark.attributes["x1"]) for mark in marks]
    assert at[:8] == [pytest.approx(1000 * index / 39, abs=0.1) for index in (0, 5, 18, 19, 20, 21, 22, 39)]
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
    empty.remarks.append("file \udc80")  # a name that is no Unicode
    write_page([empty], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "file \\udc80" in text
    assert [e.text for e in Document(text).all("h1")] == ["0 of 2 samples have their features"]


def test_a_place_that_takes_no_file_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gpupeak.report.contents.overview", None)
    for file, why in ((tmp_path / "none" / "x.html", "No such file or directory"), (tmp_path, "Is a directory")):
        assert main(["report", "--output-root", str(tmp_path), "--out", str(file)]) == 3
        assert capsys.readouterr().err == f"error: {file}: cannot be written: {why}\n"


# The command


def words(config: ExtractConfig, out: Path) -> list[str]:
    own = ["--videos", str(config.videos), "--name", str(config.name), "--samples", str(config.samples)]
    return ["report", *own, "--output-root", str(config.output_root), "--out", str(out)]


def test_the_command_writes_the_file_and_tells_the_counts(
    corpus: ExtractConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    more = ["--show", "1", "--show-unusual", "0"]
    assert main([*words(corpus, out), *more, "--show-samples", HOSTILE[1], HOSTILE[3], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], told["error"], told["file"]) == (0, None, str(out))
    assert told["bytes"] == out.stat().st_size
    (dataset,) = told["datasets"]
    assert (dataset["saved"], dataset["failed"], dataset["missing"], dataset["sheets"]) == (5, 1, 1, 3)
    assert main([*words(corpus, out), "--show", "0", "--show-unusual", "0"]) == 0
    assert capsys.readouterr().out.endswith("report.html: 0.0 MB, 7 samples of 1 dataset, 0 contact sheets\n")


def test_the_command_that_cannot_report_says_why_in_one_line(
    corpus: ExtractConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.html"
    assert main([*words(corpus, out), "--show-samples", "nobody"]) == 2
    assert capsys.readouterr().err == "error: there is no sample 'nobody' in mi<b>ne\n"
    monkeypatch.setattr(sheets, "find_spec", lambda name: None if name == "jinja2" else name)
    assert main(words(corpus, out)) == 2
    assert capsys.readouterr().err == "error: this needs jinja2: pip install 'gpupeak[report]'\n"
    assert not out.exists()
