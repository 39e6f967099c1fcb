"""The check of the GPU line, where there is no GPU: all of it is gone through, and it notices what it is there for."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.frame import PictureType

from gpupeak.encode.kernels import Kernels
from gpupeak.kernels.patch_rows import patch_rows
from gpupeak.types import FrameBatch

REPOSITORY = Path(__file__).resolve().parents[2]
gpu_check: Any = importlib.import_module("gpu_check")
gpu_corpus: Any = importlib.import_module("gpu_corpus")
bench_record: Any = importlib.import_module("record")

DMON = """\
#!/bin/sh
case "$*" in *query-gpu*) echo 580.1; exit ;; esac
echo '# gpu     sm    mem    enc    dec    jpg    ofa     fb   bar1   ccpm'
echo '# Idx      %      %      %      %      %      %     MB     MB     MB'
while sleep 0.1; do echo '    0     40      5      -     70      0      0   2048      3      0'; done
"""
"""What `nvidia-smi` answers on a machine with a GPU."""


def check(directory: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script in `directory`, which holds a copy of the repository, as from a bare checkout."""
    return subprocess.run(
        [sys.executable, "bench/gpu_check.py", *options],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": ".", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_corpus_is_as_long_and_large_as_real_clips_and_coded_like_them(tmp_path: Path) -> None:
    sets = gpu_corpus.corpus(small=False)
    lengths = sorted(clip.frames for clips in sets.values() for clip in clips)
    assert (lengths[0], statistics.median(lengths), lengths[-1]) == (41, 89, 339)
    of_mer = [clip.size for name in ("mer2023", "mer2024", "ovmerdplus") for clip in sets[name]]
    assert sum(any(side % 16 for side in size) for size in of_mer) > 0.7 * len(of_mer)
    assert all(side % 2 == 0 for clips in sets.values() for clip in clips for side in clip.size)

    (tmp_path / "clips").mkdir()
    gpu_corpus.write_clip(tmp_path, gpu_corpus.Clip("short", 41, (168, 94)))
    with av.open(str(tmp_path / "clips/short.mp4")) as container:
        types = "".join(PictureType(frame.pict_type).name for frame in container.decode(video=0))
    assert types.startswith("IBBPBBPBBP")
    assert (types.count("I"), len(types)) == (1, 41)


@pytest.mark.slow
def test_a_dry_run_from_a_bare_checkout_goes_through_everything(tmp_path: Path) -> None:
    for name in ("gpupeak", "kernels", "bench"):
        ignore = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(REPOSITORY / name, tmp_path / name, symlinks=True, ignore=ignore)
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(DMON)
    smi.chmod(0o755)
    path = f"{smi.parent}:{os.environ['PATH']}"
    done = check(tmp_path, "--dry-run", "--commit", "abc123", OUT=str(tmp_path / "out"), PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr

    (file,) = (tmp_path / "out").iterdir()
    first, *rows = map(json.loads, file.read_text().splitlines())
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["failed"], last["dry_run"], last["record"]) == ([], True, str(file))
    conditions = first["conditions"]
    assert conditions["checkout"] == str(tmp_path)
    assert (conditions["commit"], conditions["driver"]) == ("abc123", "580.1")
    assert conditions["versions"].keys() >= {"torch", "av", "numpy", "nvidia-dali-cuda130"}
    assert conditions["coding"]["vp9"][2]["g"] == "250"

    by_name = {f"{row['part']}: {row['row']}": row for row in rows}
    assert {
        *(f"encode: fidelity: {way}" for way in ("open_clip", "eager", *gpu_check.WAYS)),
        *("encode: images/s at the best", "decode: CPU alone", "decode: NVDEC to libav", "decode: a poisoned batch"),
        *(f"e2e: line: {mode}" for mode in ("cpu", "nvdec", "hybrid", "auto")),
        "e2e: of its bounds: hybrid",
    } <= by_name.keys()
    controls = by_name["encode: fidelity: graphs+patch_rows"]["controls_passing"]
    assert len(controls) == 4
    assert set(controls.values()) == {0}
    trimmed = by_name["decode: NVDEC: trimmed"]
    assert (trimmed["ok"], trimmed["difference"]) == (True, 0)
    decoders = by_name["decode: decoders to be made"]
    assert decoders["decoders"] == decoders["coded_sizes"] > 3
    assert decoders["left_out"] == {}
    line = by_name["e2e: encoding alone"]
    assert (line["busy"], line["gpu_mib"]) == ({"GPU": 40, "NVDEC": 70}, 2048)
    assert {"encoder, images/s", "encoder, over open_clip"} < last["targets"].keys()
    assert any(name.endswith("12799 clips, s") for name in last["targets"])


def test_rows_are_on_disk_as_soon_as_they_are_measured_and_a_fault_costs_one_row(tmp_path: Path) -> None:
    record = bench_record.Record(tmp_path, {"commit": "abc"})

    def rows() -> list[dict[str, Any]]:
        return [json.loads(line) for line in record.path.read_text().splitlines()]

    with record.part("encode"):
        record.row("good", lambda: {"says": "1", "figure": 1 / 3})
        assert rows()[1]["figure"] == 0.33333
        assert record.row("bad", lambda: {"figure": [][0]}) == {}
        assert rows()[2]["ok"] is False
        record.start_seconds = 0
        record.row("late", lambda: {"says": "measured"})
        record.start_seconds = 60
        raise MemoryError("between two rows")
    with record.part("decode"):
        record.row("next", lambda: {"says": "2", "ok": True})
    assert [(row["row"], row.get("ok"), row["says"]) for row in rows()[1:]] == [
        ("good", None, "1"),
        ("bad", False, "IndexError: list index out of range"),
        ("late", None, "left out: no time"),
        ("the rest", False, "MemoryError: between two rows"),
        ("next", True, "2"),
    ]


def wrong_channels(pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor) -> None:
    patch_rows(pixels.flip(3).contiguous(), images, scale_shift, out)


def wrong_image(pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor) -> None:
    patch_rows(pixels, images.clamp(max=14), scale_shift, out)


@pytest.mark.parametrize("patch", [wrong_channels, wrong_image])
def test_an_encoder_that_is_wrong_is_noticed(patch: Any) -> None:
    setup = gpu_check.in_small()
    towers = gpu_check.Towers(setup, gpu_check.drawn(32), ceiling=1.0)

    def runner(patch: Any) -> Any:
        kernels = Kernels(patch_rows=patch)
        return gpu_check.EagerRunner(setup.tower(torch.float32), setup.cuda, 16, kernels)

    assert towers.add("right", partial(runner, patch_rows))["ok"]
    assert not towers.add("wrong", partial(runner, patch))["ok"]


def frames(numbers: range) -> FrameBatch:
    pictures = list(gpu_corpus.pictures((224, 224), max(numbers) + 1, seed=1))
    return gpu_check.alone("clip", np.stack([pictures[number] for number in numbers]))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("shift", "ok"), [(0, True), (1, False)])
def test_frames_that_are_not_the_ones_planned_are_noticed(shift: int, ok: bool) -> None:
    sample = frames(range(8)).plans[0].sample
    given = frames(range(shift, 8 + shift))
    np.asarray(given.pixels)[:2, :9] ^= 1
    found = {"cpu": {"clip": frames(range(8))}, "nvdec": {"clip": given}}
    assert gpu_check.check_frames(found, [sample])["ok"] is ok
    shown = tuple(map(gpu_corpus.number_of, np.asarray(given.pixels)))
    assert (shown == given.plans[0].indices) is ok
