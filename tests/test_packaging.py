"""What is installed is whole: wheel and source archive, without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from gpupeak import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = ("gpupeak", "kernels", "tests", "bench", "docs", "examples", ".ci", ".github")
_SHIPPED = (".py", ".csv", ".typed", ".cu", ".cuh", ".css", ".jinja", ".js")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def package_files() -> set[str]:
    """What has to be installed, `gpupeak/kernels` being a link to `kernels` in the repository."""
    found = set()
    for root, directories, files in os.walk(REPOSITORY / "gpupeak", followlinks=True):
        directories[:] = [name for name in directories if name != "__pycache__"]
        found |= {(Path(root) / name).relative_to(REPOSITORY).as_posix() for name in files if name.endswith(_SHIPPED)}
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a source archive of the repository, and the wheel made out of that archive."""
    copy = tmp_path_factory.mktemp("build") / "gpupeak"
    copy.mkdir()
    for path in REPOSITORY.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
        elif path.name in SOURCES:
            shutil.copytree(path, copy / path.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "dist", copy, cwd=copy)
    return copy / "dist"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which nothing but the wheel is installed."""
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    run(*pip, "--target", target, wheel, cwd=target)
    return target


def test_the_wheel_holds_every_module_and_data_file(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = package_files()
    assert {"gpupeak/corpora/datasets.csv", "gpupeak/py.typed", "gpupeak/kernels/__init__.py"} <= expected
    assert expected <= held
    assert f"gpupeak-{__version__}.dist-info/licenses/LICENSE" in held
    assert not [name for name in held if not name.startswith(("gpupeak/", "gpupeak-"))]


def test_the_source_archive_can_be_tested(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        members = {member.name.partition("/")[2]: member for member in tar.getmembers()}
    assert package_files() <= members.keys()
    assert all(not member.issym() and not member.islnk() for member in members.values())
    tests = {f"tests/{path.name}" for path in (REPOSITORY / "tests").glob("*.py")}
    documents = {f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")}
    assert {"Makefile", "constraints.txt", "pyproject.toml", "README.md", "README.zh-CN.md"} <= members.keys()
    assert {"CITATION.cff", "SECURITY.md", ".pre-commit-config.yaml", ".github/workflows/ci.yml"} <= members.keys()
    assert tests | documents | {"mkdocs.yml", "examples/train.py"} <= members.keys()


def test_the_installed_wheel_is_whole(installed: Path) -> None:
    code = "import gpupeak, gpupeak.kernels, gpupeak.corpora.table;print(gpupeak.__file__, gpupeak.kernels.__file__)"
    package, kernels = run(sys.executable, "-c", code, cwd=installed, PYTHONPATH=str(installed)).split()
    assert Path(package) == installed / "gpupeak/__init__.py"
    assert Path(kernels) == installed / "gpupeak/kernels/__init__.py"
    command = (sys.executable, installed / "bin" / "gpupeak")
    assert __version__ in run(*command, "--version", cwd=installed, PYTHONPATH=str(installed))


def test_the_citation_names_this_version() -> None:
    assert f"version: {__version__}" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8").splitlines()


def test_versions_are_pinned_exactly() -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pin = re.compile(r"""[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*(; python_version (<|>=) "3\.\d+")?""")
    assert [line for line in lines if not pin.fullmatch(line)] == []
    names = {re.sub("[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    assert {"torch", "torchvision", "numpy", "av", "open-clip-torch", "cupy-cuda13x", "nvidia-dali-cuda130"} <= names


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the machine's own setting: a mirror, a proxy, a local directory."""
    hosts = ("pypi" + ".org", "python" + "hosted", "download." + "pytorch", "ana" + "conda.org", "pypi." + "nvidia")
    options = ("--index" + "-url", "--extra-index" + "-url")
    files = [*REPOSITORY.iterdir(), *(path for name in SOURCES for path in (REPOSITORY / name).rglob("*"))]
    for path in (path for path in files if path.is_file() and "__pycache__" not in path.parts):
        text = path.read_bytes().decode("utf-8", "replace").lower()
        assert [word for word in hosts + options if word in text] == [], path
