"""With which versions of what it needs does gpupeak work? Its tests in fresh environments, one row each.

    python tests/compat.py [--only ROW ...] [--out RECORD.json]

A row is a Python and versions to pin: the lowest that pyproject.toml allows of all packages together, the lowest of
each of torch, open_clip, DALI and av alone among the newest of the rest, the packages for CUDA 12, the newest of
everything, for each Python from 3.10 to 3.14 that is found. What is not found is a row that says so. Prints a table,
writes a record in JSON; the exit code is 1 if a row's tests fail. Takes gigabytes and minutes a row.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
IN_TURN = {"torch": "torch", "open_clip_torch": "open_clip", "nvidia-dali-cuda130": "DALI", "av": "av"}
"""The packages whose lowest version is tried alone, too, and what they are called."""
TESTS = (
    *("test_journey.py", "test_run.py", "decode/test_libav.py", "video/test_container.py"),
    *("encode/test_vit.py", "encode/test_openclip.py"),
)
"""What a row has to pass: from a list to files on the disk, every codec, both ways to build an encoder."""
GPU_TESTS = ("decode/test_dali.py", "decode/test_nvdec.py", "decode/test_colours.py", "kernels/test_kernels.py")
DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")


@dataclass(frozen=True)
class Row:
    """One environment: `pins` are requirements, exact where a version is tried; `gpu` is the extra for GPUs, if any."""

    name: str
    python: str
    pins: tuple[str, ...] = ()
    gpu: str = ""


def lowest(requirements: Sequence[str]) -> dict[str, str]:
    """The lowest version of each requirement that names one with >=; markers and extras are left out."""
    found = {}
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement.partition(";")[0])
        least = re.search(r">=\s*([0-9][^,;\s]*)", requirement)
        if name and least:
            found[name[0]] = least[1]
    return found


def rows(project: dict[str, Any]) -> Iterator[Row]:
    """Every row, the cheapest to understand first."""
    needed = lowest(project["dependencies"])
    gpu = lowest(project["optional-dependencies"]["gpu"])
    report = lowest(project["optional-dependencies"]["report"])
    pins = tuple(f"{name}=={version}" for name, version in (needed | report).items() if name != "tomli")
    yield Row("all at their lowest", PYTHONS[0], pins)
    for name, called in IN_TURN.items():
        version = {**needed, **gpu}[name]
        yield Row(f"{called} {version}", "3.11", (f"{name}=={version}",), gpu="gpu" if name in gpu else "")
    yield Row("CUDA 12", "3.11", gpu="gpu-cuda12")
    for python in PYTHONS:
        yield Row(f"newest on {python}", python)


def find_python(version: str) -> Path | None:
    """An interpreter of that version: on the PATH, or one of pyenv's."""
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for candidate in (shutil.which(f"python{version}"), *of_pyenv):
        if candidate is None:
            continue
        ask = [candidate, "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"]
        told = subprocess.run(ask, capture_output=True, text=True, check=False)
        if told.returncode == 0 and told.stdout.strip() == version:
            return Path(candidate)
    return None


def attempt(row: Row, work: Path) -> tuple[str, str, dict[str, str]]:
    """Make the row's environment, and run its tests there: "passed", "failed", "not installed" or "no such Python",
    more of that, and the versions."""
    python = find_python(row.python)
    if python is None:
        return "no such Python", f"no python{row.python} on the PATH or among pyenv's", {}
    home = work / re.sub(r"\W+", "-", row.name)
    subprocess.run([str(python), "-m", "venv", str(home)], check=True)
    inside = home / "bin/python"
    extras = ",".join(filter(None, ("report", row.gpu)))
    needed = ["pytest", "pytest-timeout", "psutil", "scikit-video"]
    command = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += [*row.pins, *needed, f"{ROOT}[{extras}]"]
    done = subprocess.run([str(inside), *command], capture_output=True, text=True, check=False)
    if done.returncode:
        return "not installed", _last(done), {}
    checked = subprocess.run([str(inside), "-m", "pip", "check"], capture_output=True, text=True, check=False)
    if checked.returncode:
        return "failed", f"pip check: {_last(checked)}", _versions(inside)
    if row.gpu:  # which no test imports without a GPU
        imported = subprocess.run([str(inside), "-c", "import cupy"], capture_output=True, text=True, check=False)
        if imported.returncode:
            return "failed", _last(imported), _versions(inside)
    tests = [str(ROOT / "tests" / name) for name in TESTS + (GPU_TESTS if row.gpu else ())]
    command = ["-m", "pytest", "-o", "addopts=-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *tests]
    done = subprocess.run([str(inside), *command], capture_output=True, text=True, check=False, cwd=home)
    return "failed" if done.returncode else "passed", _last(done), _versions(inside)


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1][:300] if lines else f"exit code {done.returncode}"


def _versions(inside: Path) -> dict[str, str]:
    told = json.loads(subprocess.check_output([str(inside), "-m", "pip", "list", "--format=json"], text=True))
    there = {re.sub(r"[-_.]+", "-", each["name"]).lower(): each["version"] for each in told}
    names = (*IN_TURN, *DALI, "numpy", "safetensors", "huggingface_hub", "pillow")
    return {name: there[key] for name in names if (key := name.replace("_", "-")) in there}


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as a table in Markdown."""
    lines = [
        "| Row | Python | torch | open_clip | av | DALI | Outcome |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        versions, outcome, detail = result["versions"], result["outcome"], result["detail"]
        there = [versions.get(name, "") for name in ("torch", "open_clip_torch", "av")]
        there.append(next((versions[name] for name in DALI if name in versions), ""))
        told = detail.partition(" in ")[0] if outcome == "passed" else f"{outcome}: {detail}"
        cells = (result["name"], result["python"], *there, told.replace("|", "/"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows whose name holds one of these words")
    parser.add_argument("--out", type=Path, metavar="FILE")
    given = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [row for row in rows(project) if not given.only or any(word in row.name for word in given.only)]
    commit = subprocess.check_output(["git", "describe", "--always", "--dirty"], text=True, cwd=ROOT).strip()
    results: list[dict[str, Any]] = []
    for row in wanted:
        print(f"{row.name}, Python {row.python} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="gpupeak-compat-") as temporary:
            try:
                found = attempt(row, Path(temporary))
            except (OSError, subprocess.CalledProcessError) as error:
                found = "failed", str(error)[:300], {}
        outcome, detail, versions = found
        came = {"outcome": outcome, "detail": detail, "versions": versions}
        seconds = round(time.monotonic() - began, 1)
        results.append({**asdict(row), **came, "seconds": seconds, "commit": commit})
        print(f"  {outcome}: {detail}", file=sys.stderr, flush=True)
    print(table(results))
    if given.out is not None:
        record = {
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": platform.platform(),
            "rows": results,
        }
        given.out.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(result["outcome"] in ("failed", "not installed") for result in results))


if __name__ == "__main__":
    sys.exit(main())
