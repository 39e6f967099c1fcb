"""What does a machine without a network need to install gpupeak? Everything, in one directory. See `make wheelhouse`.

    python -m gpupeak.wheelhouse --for 3.12 --extras gpu,ray --pieces 56M wheelhouse

Run from a checkout, by any Python with pip: needs nothing but the standard library. Packages come from where pip is
set up to get them; no address of such a place is written down.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Target", "WheelhouseError", "collect", "main", "parse_bytes", "seal", "split"]

MACHINES = ("x86_64", "aarch64")
SUMS, INSTALLER = "SHA256SUMS", "install.sh"
_CHUNK = 1 << 20
_SIZE = re.compile(r"(\d+)([kMGT]?)(i?)B?", re.IGNORECASE)
_PYTHON = re.compile(r"3\.(\d+)")
_MOST_PIECES = 10_000  # of a file: their numbers have four digits, so that names are in order
_OLDEST_PYTHON = 10
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "gpupeak", "kernels")

# pip answers what a marker such as `python_version < "3.11"` asks for the Python that runs it. Here it is to answer
# for the one that will install.
_PIP = """
import sys
from pip._internal.cli.main import main
from pip._vendor.packaging import markers
here = markers.default_environment
markers.default_environment = lambda: {**here(), **TARGET}
sys.exit(main(sys.argv[1:]))
"""


class WheelhouseError(Exception):
    """What cannot be done, in one line."""


@dataclass(frozen=True)
class Target:
    """A machine to install on: Linux with a glibc of at least 2.`glibc`, and CPython `python`, such as 3.12."""

    python: str
    machine: str = "x86_64"
    glibc: int = 28  # RHEL 8's

    def __post_init__(self) -> None:
        match = _PYTHON.fullmatch(self.python)
        if match is None or int(match[1]) < _OLDEST_PYTHON:
            raise WheelhouseError(f"Python is {self.python!r}, expected a version such as 3.12, of at least 3.10")
        if self.machine not in MACHINES:
            raise WheelhouseError(f"machine is {self.machine!r}, expected one of {', '.join(MACHINES)}")

    @property
    def platforms(self) -> list[str]:
        """Platform tags of wheels that run there, the newest first."""
        manylinux = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, 4, -1)]
        return [*manylinux, f"manylinux2014_{self.machine}", f"linux_{self.machine}"]

    @property
    def markers(self) -> dict[str, str]:
        """What environment markers are answered with."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


def collect(repository: Path, target: Target, extras: Sequence[str], out: Path, pieces: int | None = None) -> str:
    """Fill `out`, which must not be there yet, with wheels, their sums and an installer.

    It appears when it is whole. Returns what is to be told: the size and the command that installs.

    Args:
        extras: of gpupeak, as in `pip install 'gpupeak[gpu]'`.
        pieces: the most bytes of a file; None leaves them whole.

    Raises:
        WheelhouseError: pip cannot get everything, or `out` cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise WheelhouseError(f"{out} is there already; name a directory that is not, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".gpupeak-wheelhouse-") as name:
            wheels = Path(name, "wheels")
            wheels.mkdir()
            own = _build(repository, wheels, Path(name, "source"))
            _refuse_unknown(extras, own)
            wanted = f"{own}[{','.join(extras)}]" if extras else str(own)
            _pip(
                *("download", "--only-binary", ":all:", "--python-version", target.python, "--implementation", "cp"),
                *(word for platform in target.platforms for word in ("--platform", platform)),
                *("--constraint", str(repository / "constraints.txt"), "--dest", str(wheels), wanted),
                markers=target.markers,
            )
            seal(wheels, target, extras, pieces)
            wheels.chmod(0o755)
            wheels.rename(out)
    except OSError as error:
        raise WheelhouseError(f"{error.filename or out}: {error.strerror or error}") from error
    files = [path for path in out.iterdir() if path.name != SUMS]
    size = sum(path.stat().st_size for path in files)
    return (
        f"{out}: {len(files)} files, {size / 1e6:,.0f} MB, for Python {target.python} on Linux {target.machine}.\n"
        f"There, without a network, into the environment .venv:\n\n    sh {out.name}/{INSTALLER} .venv"
    )


def _refuse_unknown(extras: Iterable[str], wheel: Path) -> None:
    """Hold extras against those that a wheel declares: pip would only warn of one that it does not know.

    Raises:
        WheelhouseError: there is no such extra.
    """
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().partition("\n\n")[0].splitlines()
    known = [line.partition(":")[2].strip() for line in lines if line.startswith("Provides-Extra:")]
    for extra in extras:
        if extra not in known:
            raise WheelhouseError(f"there is no extra {extra!r}, expected of {', '.join(known)}")


def seal(directory: Path, target: Target, extras: Sequence[str], pieces: int | None = None) -> None:
    """Make a directory of wheels, gpupeak's among them, one that installs itself: pieces, sums and `install.sh`."""
    own = next(directory.glob("gpupeak-*.whl"), None)
    if own is None:
        raise WheelhouseError(f"{directory}: no wheel of gpupeak")
    if pieces is not None:
        for wheel in sorted(directory.glob("*.whl")):
            split(wheel, pieces)
    lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(directory.iterdir())]
    (directory / SUMS).write_text("".join(lines))
    version = own.name.split("-")[1]
    wanted = f"gpupeak[{','.join(extras)}]=={version}" if extras else f"gpupeak=={version}"
    script = _INSTALL.replace("@python@", target.python).replace("@machine@", target.machine)
    installer = directory / INSTALLER
    installer.write_text(script.replace("@minor@", target.python.split(".")[1]).replace("@wanted@", wanted))
    installer.chmod(installer.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def split(file: Path, most: int) -> list[Path]:
    """Replace a file of more than `most` bytes by pieces of at most that, `<name>.0000` and on; return what is there.

    Raises:
        WheelhouseError: there would be too many.
    """
    size = file.stat().st_size
    if size <= most:
        return [file]
    if size > most * _MOST_PIECES:
        raise WheelhouseError(f"{file.name}: more than {_MOST_PIECES:,} pieces of {most} bytes; allow larger ones")
    made: list[Path] = []
    with file.open("rb") as source:
        while source.tell() < size:
            piece = file.with_name(f"{file.name}.{len(made):04}")
            with piece.open("wb") as target:
                for chunk in _chunks(source.read, most):
                    target.write(chunk)
            made.append(piece)
    file.unlink()
    return made


def parse_bytes(text: str) -> int:
    """The bytes that 56M, 2G or 500000 names: powers of 1000, with an i (56Mi) of 1024.

    Raises:
        WheelhouseError: it names none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise WheelhouseError(f"size of pieces is {text!r}, expected one such as 56M or 2G")
    return int(match[1]) * int((1024 if match[3] else 1000) ** " kmgt".index(match[2].lower() or " "))


def _build(repository: Path, wheels: Path, copy: Path) -> Path:
    """gpupeak's own wheel, made from a copy: building would leave its traces in the checkout."""
    copy.mkdir()
    for name in _SOURCES:
        source = repository / name
        if not source.exists():
            raise WheelhouseError(f"{source} is not there: run this in a checkout of gpupeak")
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(copy))
    return next(wheels.glob("gpupeak-*.whl"))


def _pip(*arguments: str, markers: dict[str, str] | None = None) -> None:
    """Run pip; its last error is what is raised.

    Raises:
        WheelhouseError: it failed.
    """
    code = _PIP.replace("TARGET", repr(markers or {}))
    command = [sys.executable, "-c", code, arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"ended with {done.returncode}"
        raise WheelhouseError(f"pip {arguments[0]}: {reason}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in _chunks(file.read, path.stat().st_size):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(read: Callable[[int], bytes], most: int) -> Iterator[bytes]:
    """At most so many bytes, piece by piece."""
    while most > 0 and (chunk := read(min(_CHUNK, most))):
        most -= len(chunk)
        yield chunk


_INSTALL = """\
#!/bin/sh
# Installs @wanted@ from the files beside it, without a network:
#
#     sh install.sh ENVIRONMENT
#
# into a virtual or conda environment; one that is not there is made, by python@python@ or what PYTHON names. Pieces
# are joined in TMPDIR (/tmp if it is not set), after everything has been held against SHA256SUMS.
set -eu

fail() {
  echo "install.sh: $1" >&2
  exit 1
}

test $# -eq 1 || fail "expected one argument, the environment to install into: sh install.sh .venv"
mkdir -p "$1" || fail "$1 cannot be made"
environment=$(cd "$1" && pwd)
cd "$(dirname "$0")"

test "$(uname -s) $(uname -m)" = "Linux @machine@" ||
  fail "these are packages for Linux @machine@, this is $(uname -s) $(uname -m)"
command -v sha256sum >/dev/null || fail "there is no sha256sum here"
wrong=$(sha256sum -c SHA256SUMS 2>/dev/null | grep -v ': OK$' | head -n 1) || true
test -z "$wrong" || fail "not as it was collected: $wrong; copy it again"

python=$environment/bin/python
if ! test -x "$python"; then
  "${PYTHON:-python@python@}" -m venv "$environment" || fail "no environment can be made by ${PYTHON:-python@python@}"
fi
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, @minor@))' ||
  fail "$python is $("$python" --version 2>&1), these are packages for Python @python@"

joined=$(mktemp -d)
trap 'rm -rf "$joined"' EXIT
trap 'exit 1' HUP INT TERM
for piece in $(cut -c 67- SHA256SUMS | grep '\\.whl\\.[0-9]*$'); do
  cat "$piece" >>"$joined/${piece%.*}" || fail "no room to join the pieces of ${piece%.*} in $joined; set TMPDIR"
done
"$python" -I -m pip install --disable-pip-version-check --no-index -f . -f "$joined" '@wanted@' ||
  fail "pip could not install it; see above"
echo "installed: $environment/bin/gpupeak"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Collect; tell in one line what keeps it from that, and return 1."""
    parser = argparse.ArgumentParser(prog="python -m gpupeak.wheelhouse", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the directory to make")
    parser.add_argument("--for", dest="python", required=True, metavar="3.12", help="the Python that installs")
    parser.add_argument("--machine", default="x86_64", help="x86_64 or aarch64 (default: x86_64)")
    parser.add_argument("--extras", default="", help="of gpupeak, joined by commas")
    parser.add_argument("--pieces", metavar="SIZE", help="the most bytes of a file, such as 56M")
    options = parser.parse_args(argv)
    extras = [extra.strip() for extra in options.extras.split(",") if extra.strip()]
    try:
        target = Target(options.python, options.machine)
        told = collect(Path.cwd(), target, extras, options.out, options.pieces and parse_bytes(options.pieces))
    except WheelhouseError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{told}\n")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing half made is left
    sys.exit(main())
