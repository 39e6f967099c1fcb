"""The report in a browser: no error on the console, pictures there, search right and fast, hostile names shown as text.

Not among the tests of `make test`, since it takes a Chromium: `make test-browser`. The browser gets the page from the
disk, no name of the network resolves, and what it has made of the page is printed and looked at.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlencode

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))

from report.document import parsed
from report.hostile import NAMES, REFUSED, make_hostile

from gpupeak.corpora.table import default_datasets, expected_samples
from gpupeak.report.contents import FAILED, SAVED, Overview, Row, overview
from gpupeak.report.page import write_page
from gpupeak.types import Sample, SamplingRule

SAMPLES, PICTURES = len(NAMES) + 2, 8 * len(NAMES)
READY_MS, SEARCH_MS = 2000, 50
"""Of 12,799 samples: from the start of the program to the first list, and a search, its list drawn. Measured on
two busy cores: 23 to 65 ms, and 2 to 32."""


class Page:
    """What a browser has made of a page: its root's attributes, its list, how many pictures and sheets are visible."""

    def __init__(self, dom: str) -> None:
        root = parsed(dom)
        rows = root.iterfind(".//tbody[@id='rows']/tr")
        self.root = root.attrib
        self.rows = [["".join(cell.itertext()) for cell in row.iter("td")] for row in rows]
        self.names = [row[0] for row in self.rows]
        self.status = "".join(text for element in root.iterfind(".//*[@id='status']") for text in element.itertext())
        self.sheets = sum("hidden" not in sheet.attrib for sheet in root.iterfind(".//article[@class='sheet']"))
        self.foreign = [str(each.attrib) for each in root.iter("img") if not each.get("src", "").startswith("data:")]
        self.foreign += [f"{each.tag} {name}" for each in root.iter() for name in each.attrib if name.startswith("on")]


Browser: TypeAlias = Callable[..., tuple[Page, list[str]]]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """Opens a file, and gives the page and what stands on the console."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.exit("no Chromium found; on Debian and Ubuntu: apt-get install chromium", returncode=1)
    command = [
        *(chromium, "--headless", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run", "--disable-extensions"),
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),  # as root, Chromium has no sandbox
    ]

    def browse(file: Path, options: Sequence[str] = (), **fragment: str) -> tuple[Page, list[str]]:
        url = file.as_uri() + (f"#{urlencode(fragment)}" if fragment else "")
        done = subprocess.run([*command, *options, url], capture_output=True, text=True, timeout=120, check=True)
        return Page(done.stdout), re.findall(r"CONSOLE.*", done.stderr)

    return browse


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    write_page(overview(make_hostile(root), show=len(NAMES)), root / "report.html")
    return root / "report.html"


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on as many samples as MER-UniBench has."""
    root = tmp_path_factory.mktemp("large")
    draw = random.Random(0)
    found = []
    for dataset in default_datasets():
        rows = []
        for number in range(expected_samples()[dataset] or 0):
            sample = Sample(dataset, f"sample_{number:08}", None, (), SamplingRule(), root / "x.npy")
            row = Row(sample, SAVED, source="au_info", peak=draw.randrange(200), frames=200)
            row.indices = tuple(sorted(draw.sample(range(200), 8)))
            if number == 7:
                row.outcome, row.why = FAILED, "decode: no moov atom"
            rows.append(row)
        found.append(Overview(dataset, root / dataset, len(rows), rows, {}, []))
    write_page(found, root / "report.html")
    return root / "report.html"


def test_hostile_names_are_text_and_nothing_complains(browser: Browser, hostile: Path) -> None:
    page, console = browser(hostile)
    assert console == []
    assert page.foreign == []
    assert page.names == [*NAMES, REFUSED, "missing"]
    assert page.status == f"{SAMPLES} of {SAMPLES} samples, {len(NAMES)} shown as contact sheets"
    assert page.root["data-pictures"] == f"{PICTURES} of {PICTURES}"


def test_the_console_is_heard(browser: Browser, hostile: Path, tmp_path: Path) -> None:
    """What is injected by force is not run, and the browser says so: silence above means something."""
    text = hostile.read_text()
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("</main>", '<img src="http://example.com/x.png" onerror="alert(1)"></main>'))
    page, console = browser(broken)
    assert any("Content Security Policy" in line for line in console)
    assert len(page.foreign) == 2, "where it is from, and what it would run"
    assert page.root["data-pictures"] == f"{PICTURES} of {PICTURES + 1}"


@pytest.mark.parametrize("name", NAMES)
def test_search_finds_a_sample_by_its_name(name: str, browser: Browser, hostile: Path) -> None:
    page, console = browser(hostile, q=name.upper())
    assert (page.names, page.sheets, console) == ([name], 1, [])


def test_a_phone_is_no_error(browser: Browser, hostile: Path) -> None:
    page, console = browser(hostile, ("--window-size=390,844",), q="nothing is called so")
    assert (page.names, page.sheets, console) == ([], 0, [])
    assert page.status.startswith(f"0 of {SAMPLES} samples")


@pytest.mark.parametrize(
    ("asked", "count", "first"),
    [
        ({}, 12_799, "sample_00000000"),
        ({"dataset": "sims"}, 457, "sample_00000000"),
        ({"q": "0456", "dataset": "sims"}, 1, "sample_00000456"),
        ({"outcome": "failed"}, 9, "sample_00000007"),
        ({"source": "openface"}, 0, None),
        ({"dataset": "no such"}, 12_799, "sample_00000000"),
    ],
)
def test_the_page_of_a_whole_benchmark_answers_at_once(
    asked: dict[str, str], count: int, first: str | None, browser: Browser, large: Path
) -> None:
    page, console = browser(large, **asked)
    assert console == []
    assert page.status == f"{count:,} of 12,799 samples"
    assert page.names[:1] == ([first] if first else [])
    assert len(page.rows) <= 50
    assert float(page.root["data-ready-ms"]) < READY_MS
    assert float(page.root["data-search-ms"]) < SEARCH_MS
    print(f"\n{large.stat().st_size:,} bytes, {page.root}")
