"""What do the commands cost over many samples on a shared file system, where every call that names a path waits?

What bounds it there: such calls, one after another. `slow_paths.c`, preloaded, lets each below the drawn tree wait
1 ms. Every command runs in a process of its own, its files in the page cache, without the wait and then with it.
Videos are empty, action units 200 kB, features random.

    python bench/slow_paths.py SAMPLES [--work DIR] [--only COMMAND ...] [--plain]

The tree stays in DIR for the next time. One JSON line a command: seconds, path calls a sample, and the most memory of
one process in MiB. `--plain` leaves out the wait.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing import Process
from pathlib import Path

import numpy as np
from record import ROOT, Row

from gpupeak.config import ExtractConfig
from gpupeak.encode.weights.identity import identify
from gpupeak.encoders import encoder_spec
from gpupeak.features.fresh import made_of
from gpupeak.features.writer import NpyWriter
from gpupeak.run import prepare, settings_of
from gpupeak.types import FeatureBatch, FramePlan, Peak

LINKS = 10_000
"""Names of one file of action units: file systems have a limit."""
STORE = """import time, gpupeak; store = gpupeak.FeatureStore("done"); began = time.perf_counter()
features = store["slow"]; features[features.names[-1]]; print(time.perf_counter() - began)"""
EPOCH = """import time, gpupeak; from torch.utils.data import DataLoader
data = gpupeak.FeatureStore("done").as_torch_dataset("slow"); began = time.perf_counter()
for batch in DataLoader(data, batch_size=256, num_workers=2): pass
print(time.perf_counter() - began)"""


def commands() -> dict[str, list[str]]:
    """What is timed, in the tree. What reads the packed file comes after `pack`."""
    gpupeak = [sys.executable, "-m", "gpupeak"]
    source = ["--videos", "videos", "--name", "slow", "--aus", "aus", "--weights", "random:0", "--output-root"]
    return {
        "extract": [*gpupeak, "extract", *source, "done"],
        "plan": [*gpupeak, "plan", *source, "new"],
        "verify": [*gpupeak, "verify", *source, "done"],
        "verify --against": [*gpupeak, "verify", *source, "done", "--against", "twin"],
        "report": [*gpupeak, "report", *source, "done", "--out", "report.html", "--show", "0", "--show-unusual", "0"],
        "doctor": [*gpupeak, "doctor", *source, "done"],
        "FeatureStore": [sys.executable, "-c", STORE],
        "pack": [*gpupeak, "pack", "slow", "--output-root", "done"],
        "FeatureStore, packed": [sys.executable, "-c", STORE],
        "DataLoader, packed": [sys.executable, "-c", EPOCH],
        "unpack": [*gpupeak, "unpack", "slow", "--output-root", "packed"],
    }


def draw(count: int) -> None:
    """A tree of samples that are all done, by gpupeak's own writers, and a twin of its features."""
    units = {f"AU{unit:02d}_r": 1.23 for unit in range(17)}
    frames = [{"frame": number, "active_aus": units, "is_peak_frame": False} for number in range(1, 600)]
    info = {"total_frames": 600, "peak_frames": [{"peak_index": 40}]}
    Path("videos").mkdir()
    for number in range(count):
        name = f"sample_{number:08d}"
        Path("videos", f"{name}.mp4").touch()
        (file := Path("aus", name, f"{name}_au_analysis.json")).parent.mkdir(parents=True)
        if number % LINKS == 0:
            (first := file).write_text(json.dumps({"au_info": info, "per_frame_au_descriptions": frames}))
        else:
            os.link(first, file)
    config = ExtractConfig(videos="videos", name="slow", aus="aus", weights="random:0", output_root="done")
    spec = encoder_spec(config.encoder)
    weights = identify(spec, config.weights)
    (job,) = prepare(config, spec, weights)
    peak = Peak(40, None, None, 600, "au_info", Path("aus"))
    random = np.random.default_rng(0)
    with job.directory as directory:
        settings = settings_of(job.corpus, spec, weights)
        directory.begin({"dataset": "slow", "settings": settings}, done=set(), overwrite=False)
        for sample in job.pending:
            plan = FramePlan(sample, tuple(range(8)), 600, "h264", peak, files=made_of(sample))
            rows = random.standard_normal((8, spec.dim), np.float32)
            for outcome in NpyWriter().write([FeatureBatch((plan,), rows, ((0, 8),), ({"decode": 0.01},))]):
                directory.record(outcome)
        directory.finish(job.names)
    shutil.copytree("done", "twin", copy_function=os.link)


def timed(command: list[str], count: int, slow: Path | None = None) -> Row:
    """One process: its seconds, those that it prints if it is a script; with `slow` preloaded, its path calls."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    with tempfile.NamedTemporaryFile() as calls, tempfile.TemporaryFile("w+") as told:
        if slow is not None:
            environment |= {"LD_PRELOAD": str(slow), "SLOW_ROOT": str(Path.cwd()), "SLOW_COUNT": calls.name}
        began = time.perf_counter()
        run = subprocess.Popen(command, stdout=told, stderr=told, env=environment)
        _, status, used = os.wait4(run.pid, 0)
        seconds = time.perf_counter() - began
        run.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        if command[1] == "-c" and run.returncode == 0:
            seconds = float(told.read())
        row: Row = {"seconds": round(seconds, 2), "peak_mib": used.ru_maxrss >> 10, "exit": run.returncode}
        return row if slow is None else {**row, "calls_a_sample": round(os.fstat(calls.fileno()).st_size / count, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description="The commands over a slow file system.")
    parser.add_argument("samples", type=int)
    parser.add_argument("--work", type=Path, help="where the tree stays for the next time")
    parser.add_argument("--only", nargs="+", choices=commands(), default=list(commands()))
    parser.add_argument("--plain", action="store_true", help="leave out the wait")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        slow, tree = Path(scratch, "slow.so"), options.work or Path(scratch, "tree")
        source = ROOT / "bench" / "slow_paths.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", slow, source, "-ldl"], check=True)
        drawn = tree.is_dir()
        tree.mkdir(parents=True, exist_ok=True)
        os.chdir(tree)
        if not drawn:
            drawing = Process(target=draw, args=[options.samples])  # memory of this process is that of its children
            drawing.start()
            drawing.join()
        for name in options.only:
            row: Row = {"command": name, "samples": options.samples}
            for key, preloaded in {"plain": None, "slow": slow}.items():
                if preloaded is None or not options.plain:
                    make_ready(name)
                    row[key] = timed(commands()[name], options.samples, preloaded)
            print(json.dumps(row), flush=True)


def make_ready(name: str) -> None:
    """No packed file but for what reads one, and for `unpack` no other."""
    pack = next(Path("done/slow").glob("frame_*")).with_suffix(".safetensors")
    if name == "unpack":
        shutil.rmtree("packed", ignore_errors=True)
        Path("packed/slow").mkdir(parents=True)
        os.link(pack, Path("packed/slow", pack.name))
    elif "packed" not in name:
        pack.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
