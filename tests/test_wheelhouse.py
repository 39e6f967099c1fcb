"""A wheelhouse installs what was collected, without a network, or says in one line why not."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gpupeak import wheelhouse
from gpupeak.wheelhouse import Target, WheelhouseError, main, parse_bytes, seal, split

REPOSITORY = Path(__file__).resolve().parents[1]
HERE = Target(f"3.{sys.version_info[1]}", platform.machine())


def wheel(directory: Path, name: str, needs: tuple[str, ...] = (), filler: int = 0, text: str = "") -> Path:
    """A wheel by hand, of one module with a constant; `filler` is bytes that do not compress."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": text or f"NAME = {name!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        + "".join(f"Provides-Extra: {extra}\n" for extra in ("gpu", "more", "other"))
        + "".join(f"Requires-Dist: {need}\n" for need in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/filler": os.urandom(filler).hex(),
    }
    path = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


@pytest.fixture
def house(tmp_path: Path) -> Callable[..., Path]:
    """A wheelhouse of two wheels, the one of which needs the other for an extra."""

    def make(pieces: int | None = None, target: Target = HERE) -> Path:
        directory = tmp_path / "wheel house"
        directory.mkdir()
        wheel(directory, "gpupeak", ("dependency; extra == 'more'", "absent; python_version < '3'"))
        wheel(directory, "dependency", filler=20_000)
        seal(directory, target, ["more"], pieces)
        return directory

    return make


def install(directory: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ("sh", directory / "install.sh", *arguments)
    variables = {"PYTHON": sys.executable, **environment}
    return subprocess.run(
        command, cwd=directory.parent, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


def test_an_extra_that_is_not_declared_is_refused(tmp_path: Path) -> None:
    own = wheel(tmp_path, "gpupeak")
    wheelhouse._refuse_unknown(["gpu", "more"], own)
    with pytest.raises(WheelhouseError, match="there is no extra 'nosuch', expected of gpu, more, other"):
        wheelhouse._refuse_unknown(["gpu", "nosuch"], own)


def test_pieces_joined_in_order_are_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.whl"
    content = os.urandom((3 << 20) + 17)
    file.write_bytes(content)
    pieces = split(file, 1_500_000)
    assert [piece.name for piece in pieces] == ["a.whl.0000", "a.whl.0001", "a.whl.0002"]
    assert [piece.stat().st_size for piece in pieces] == [1_500_000, 1_500_000, len(content) - 3_000_000]
    assert b"".join(piece.read_bytes() for piece in sorted(tmp_path.iterdir())) == content
    assert split(pieces[0], 1_500_000) == [pieces[0]]
    with pytest.raises(WheelhouseError, match="more than 10,000 pieces"):
        split(pieces[0], 100)


@pytest.mark.parametrize(
    ("text", "size"), [("56M", 56_000_000), ("2G", 2_000_000_000), ("1Mi", 1 << 20), ("500000", 500_000), ("7kB", 7000)]
)
def test_a_size(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "M", "1.5M", "-1", "56 MB", "many"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(WheelhouseError, match="expected one such as 56M"):
        parse_bytes(text)


def test_sums_are_of_what_is_there(house: Callable[..., Path]) -> None:
    directory = house(pieces=10_000)
    sums = dict(reversed(line.split("  ")) for line in (directory / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {path.name for path in directory.iterdir()} - {"SHA256SUMS", "install.sh"}
    assert {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in sums} == sums
    assert max(path.stat().st_size for path in directory.iterdir()) <= 10_000
    assert len(sums) > 4
    assert "gpupeak-1.0-py3-none-any.whl" in sums


@pytest.mark.parametrize("pieces", [None, 10_000])
def test_it_is_installed_without_a_network(house: Callable[..., Path], tmp_path: Path, pieces: int | None) -> None:
    environment = tmp_path / "new environment"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = install(house(pieces), environment, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"installed: {environment}/bin/gpupeak\n")
    code = "import dependency, gpupeak; print(gpupeak.NAME, dependency.NAME)"
    told = subprocess.run([environment / "bin/python", "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert told.stdout == "gpupeak dependency\n"
    assert list(temporary.iterdir()) == []  # what was joined


def test_what_was_damaged_or_lost_on_the_way_is_refused(house: Callable[..., Path], tmp_path: Path) -> None:
    directory = house(pieces=10_000)
    (*_, piece) = sorted(directory.glob("dependency*.0*"))
    content = piece.read_bytes()
    for damage in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        piece.write_bytes(damage)
        done = install(directory, tmp_path / "environment")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"install.sh: not as it was collected: {piece.name}: FAILED; copy it again\n"
    piece.unlink()
    done = install(directory, tmp_path / "environment")
    assert done.returncode == 1
    assert piece.name in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "environment/bin").exists()


def test_another_python_or_machine_is_refused(house: Callable[..., Path], tmp_path: Path) -> None:
    directory = house(target=Target("3.99", HERE.machine))
    done = install(directory, tmp_path / "environment")
    assert done.returncode == 1
    assert f"is Python 3.{sys.version_info[1]}" in done.stderr
    assert "these are packages for Python 3.99" in done.stderr
    script = directory / "install.sh"
    script.write_text(script.read_text().replace(f"Linux {HERE.machine}", "Linux other"))
    assert "these are packages for Linux other" in install(directory, tmp_path / "environment").stderr
    assert "expected one argument" in install(directory).stderr


@pytest.mark.parametrize(
    ("target", "fault"), [(("3.9",), "Python is"), (("4.0",), "Python is"), (("3.12", "arm"), "machine is")]
)
def test_a_target_that_cannot_be_is_refused(target: tuple[str, ...], fault: str) -> None:
    with pytest.raises(WheelhouseError, match=fault):
        Target(*target)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip is set up to get packages from: a directory, and nothing else."""
    directory = tmp_path / "registry"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND" + "_LINKS", str(directory))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return directory


def own_wheel(monkeypatch: pytest.MonkeyPatch, *needs: str) -> None:
    """In gpupeak's place, one that needs little."""
    monkeypatch.setattr(wheelhouse, "_build", lambda repository, wheels, copy: wheel(wheels, "gpupeak", needs))


def test_what_is_needed_there_is_collected_not_what_is_needed_here(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_wheel(
        monkeypatch,
        "old; python_version < '3.11'",
        "new; python_version >= '3.13'",
        "arm; platform_machine == 'aarch64'",
        "fast; extra == 'gpu'",
        "slow; extra == 'other'",
    )
    for name in ("old", "new", "arm", "fast", "slow"):
        wheel(registry, name)
    for target, expected in (
        (Target("3.10"), {"gpupeak", "old", "fast"}),
        (Target("3.13", "aarch64"), {"gpupeak", "new", "arm", "fast"}),
    ):
        out = tmp_path / f"for-{target.python}"
        told = wheelhouse.collect(REPOSITORY, target, ["gpu"], out)
        assert {path.name.split("-")[0] for path in out.glob("*.whl")} == expected
        assert told.endswith(f"sh for-{target.python}/install.sh .venv")
        assert "'gpupeak[gpu]==1.0'" in (out / "install.sh").read_text()


def test_what_cannot_be_collected_is_said_in_a_line_and_nothing_is_left(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    own_wheel(monkeypatch, "nowhere")
    assert main([str(tmp_path / "out"), "--for", "3.12"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: pip download: ")
    assert "nowhere" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["registry"]
    assert main([str(registry), "--for", "3.12"]) == 1
    assert (
        capsys.readouterr().err == f"error: {registry} is there already; name a directory that is not, or remove it\n"
    )
    assert main([str(tmp_path / "out"), "--for", "three"]) == 1
    assert capsys.readouterr().err.startswith("error: Python is 'three'")


def test_make_wheelhouse_says_what_is_wrong_in_a_line(tmp_path: Path) -> None:
    command = ["make", "-s", "wheelhouse", f"PYTHON={sys.executable}", "FOR=2.7", f"DIR={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: Python is '2.7', expected a version such as 3.12, of at least 3.10"
