"""The list of dependencies and their licences is in step with what is installed, and that fits together."""

from __future__ import annotations

import subprocess
import sys

import pytest
from dependencies import OTHER_PYTHONS, PAGE, Package, key, packages


@pytest.fixture(scope="module")
def found() -> list[Package]:
    return packages()


def test_every_package_is_on_the_page_with_its_licence(found: list[Package]) -> None:
    told = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith(("| Package", "| ---")):
            name, terms, _ = (cell.strip() for cell in line.strip("|").split("|"))
            told[key(name)] = terms
    here = {key(each.name): each.licence for each in found}
    assert {"torch", "av", "numpy", "open-clip-torch", "safetensors", "rich", "typer"} <= here.keys()
    told |= OTHER_PYTHONS
    assert here.keys() <= told.keys(), "python tests/dependencies.py writes the page"
    if sys.version_info >= (3, 11):  # on 3.10 some packages are older ones
        assert {name: terms for name, terms in here.items() if told.get(name) not in (terms, None)} == {}


def test_every_licence_is_stated_and_none_asks_for_more_than_notice(found: list[Package]) -> None:
    assert [each.name for each in found if each.licence == "not stated"] == []
    assert [each.name for each in found if "GPL" in each.licence] == []


def test_what_is_installed_fits_together() -> None:
    command = [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
