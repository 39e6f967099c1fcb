"""The check of the GPU line, where there is no GPU: all of it is gone through, and it notices what it is there for."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import sample

from gpupeak.kernels.patch_rows import patch_rows
from gpupeak.types import FrameBatch, FramePlan

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
    assert list(by_name) == [
        "encode: ceiling: product of matrices",
        "encode: ceiling: copy on the device",
        "encode: kernel: patch_rows",
        "encode: kernel: add_layer_norm",
        *(f"encode: fidelity: {way}" for way in ("open_clip", "eager", "graphs", "graphs+patch", "graphs+both")),
        "encode: images/s at 8",
        "encode: images/s at 16",
        "encode: fidelity: compiled+patch",
        "encode: images/s at the best",
        "decode: corpus",
        "decode: CPU alone",
        "decode: frames of cpu",
        "decode: frames of nvdec",
        "decode: NVDEC to libav",
        "decode: the same: colours, turns, repeats",
        "decode: features: NVDEC to libav",
        "decode: a poisoned batch",
        "decode: NVDEC: trimmed",
        "decode: NVDEC alone: 1 x 1",
        *(f"e2e: line: {mode}" for mode in ("cpu", "nvdec", "hybrid", "auto")),
        "e2e: encoding alone",
        "e2e: CPU alone",
        "e2e: NVDEC alone",
        *(
            f"e2e: {what}: {mode}"
            for mode in ("cpu", "nvdec", "hybrid")
            for what in ("decoding alone", "of its bounds")
        ),
    ]
    assert all(str(row["says"]) in done.stdout for row in rows)
    assert by_name["encode: fidelity: graphs+patch"]["controls_passing"] == {
        "neighbouring frame": 0,
        "swapped channels": 0,
        "picture shifted by a row": 0,
        "features shifted by a row": 0,
    }
    assert by_name["encode: fidelity: open_clip"]["cosine"] > 0.9999
    assert by_name["encode: images/s at the best"]["images_per_s"].keys() >= {
        "open_clip",
        "graphs+both",
        "compiled+patch",
    }
    assert by_name["decode: frames of nvdec"]["refused"] == {"DALI failed": 1}  # MPEG-4, which it decodes on NVDEC only
    trimmed = by_name["decode: NVDEC: trimmed"]
    assert (trimmed["ok"], trimmed["difference"], trimmed["left_whole"]) == (True, 0, 0)
    assert trimmed["samples_per_s"].keys() == {"whole", "trimmed"}
    assert trimmed["bytes_left"] < 1
    assert trimmed["left_out"]["trimmed"] == {"DALI failed": 1}
    assert "busy" in by_name["e2e: line: hybrid"]
    line = by_name["e2e: encoding alone"]
    assert (line["busy"], line["gpu_mib"]) == ({"GPU": 40, "NVDEC": 70}, 2048)
    assert {"encoder, images/s", "encoder, over open_clip"} < last["targets"].keys()
    assert any(name.endswith("12799 clips, s") for name in last["targets"])


def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path: Path) -> None:
    done = check(REPOSITORY, "--encode", "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 1
    assert "--device cuda:0" in done.stdout
    assert not (tmp_path / "out").exists()


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


def test_fidelity_looks_past_what_all_features_share() -> None:
    random = np.random.default_rng(0)
    wanted = 100 + random.normal(size=(32, 64))
    mean = wanted.mean(0)
    near = gpu_check.fidelity(wanted + 1e-3 * random.normal(size=wanted.shape), wanted, mean)
    assert gpu_check.accurate(near).all()
    other = gpu_check.fidelity(np.roll(wanted, 1, axis=0), wanted, mean)
    assert other["cosine"].min() > 0.9998
    assert not gpu_check.accurate(other).any()
    broken = wanted.copy()
    broken[3] = np.nan
    assert gpu_check.accurate(gpu_check.fidelity(broken, wanted, mean)).sum() == 31


def wrong_channels(pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor) -> None:
    patch_rows(pixels.flip(3).contiguous(), images, scale_shift, out)


def wrong_image(pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor) -> None:
    patch_rows(pixels, images.clamp(max=14), scale_shift, out)


@pytest.mark.parametrize("patch", [wrong_channels, wrong_image])
def test_an_encoder_that_is_wrong_is_noticed(patch: Any) -> None:
    setup = gpu_check.in_small()
    towers = gpu_check.Towers(setup, gpu_check.drawn(32), ceiling=1.0)

    def runner() -> Any:
        return gpu_check.EagerRunner(setup.tower(torch.float32), setup.cuda, 16)

    assert towers.add("right", runner, lambda: patch_rows)["ok"]
    assert not towers.add("wrong", runner, lambda: patch)["ok"]


def frames(numbers: range) -> FrameBatch:
    pictures = list(gpu_corpus.pictures((224, 224), max(numbers) + 1, seed=1))
    return gpu_check.alone("clip", np.stack([pictures[number] for number in numbers]))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("shift", "ok"), [(0, True), (1, False)])
def test_frames_that_are_not_the_ones_planned_are_noticed(shift: int, ok: bool) -> None:
    sample = frames(range(8)).plans[0].sample
    given = frames(range(shift, 8 + shift))
    given.pixels[:2, :9] ^= 1  # type: ignore[index]
    found = {"cpu": {"clip": frames(range(8))}, "nvdec": {"clip": given}}
    assert gpu_check.check_frames(found, [sample])["ok"] is ok
    shown = tuple(map(gpu_corpus.number_of, np.asarray(given.pixels)))
    assert (shown == given.plans[0].indices) is ok


def test_the_number_of_a_frame_can_be_read_off_it_when_it_is_squashed() -> None:
    for number, picture in enumerate(gpu_corpus.pictures((320, 180), 300, seed=3)):
        squashed = picture[np.arange(90) * 2][:, np.arange(90) * 320 // 90]
        assert gpu_corpus.number_of(squashed) == number


def test_the_corpus_is_the_nine_sets_in_small(tmp_path: Path) -> None:
    table = (REPOSITORY / "gpupeak" / "datasets.toml").read_text()
    for name, (count, *_) in gpu_corpus.MIX.items():
        assert re.search(rf"\[datasets\.{name}\][^[]*\nexpected = {count}\n", table), name
    assert gpu_corpus.TOTAL == 12_799
    sets = gpu_corpus.corpus(small=False)
    clips = [clip for of_set in sets.values() for clip in of_set]
    assert len(clips) == len({clip.name for clip in clips}) == 48
    assert {clip.codec for clip in sets["iemocap"]} == {"mpeg4"}
    assert {min(clip.size) for clip in clips} == {360, 480, 720, 1080}
    assert all(3 <= clip.frames / clip.fps <= 10 for clip in clips)

    (tmp_path / "clips").mkdir()
    for clip in clips:
        file = tmp_path / "clips" / f"{clip.name}{gpu_corpus.CODING[clip.codec][1]}"
        file.write_text(clip.name)
        file.with_suffix(".json").write_text("{}")
    samples = gpu_corpus.Corpus(tmp_path, False, 1500).samples()
    assert len(samples) == len({sample.name for sample in samples}) == 1500
    counts = Counter(sample.name.partition("-")[0] for sample in samples)
    assert all(abs(counts[name] - 1500 * gpu_corpus.MIX[name][0] / 12_799) < 1 for name in gpu_corpus.MIX)
    assert len({sample.video.read_text() for sample in samples}) == 48
    assert all(sample.video.stat().st_nlink > 1 for sample in samples)


def test_frames_to_decode_are_those_from_each_ones_key_frame_on(clip_of: Any, tmp_path: Path) -> None:
    def to_decode(kind: str, *indices: int) -> int:
        each = sample(tmp_path, kind, n=len(indices), video=clip_of(kind))
        return int(gpu_check.frames_to_decode(FramePlan(each, indices, 48, "h264")))

    assert to_decode("h264", 0, 10, 40) == 41  # one GOP
    assert to_decode("h264_short_gop", 0, 13, 14, 40) == 1 + 3 + 5  # GOPs of 12
