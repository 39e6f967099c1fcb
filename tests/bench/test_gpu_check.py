"""The check of the GPU line, where there is no GPU: all of it is gone through, and it notices what it is there for."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from wrong_kernels import WRONG

from gpupeak.encode.kernels import Kernels
from gpupeak.types import FrameBatch

REPOSITORY = Path(__file__).resolve().parents[2]
gpu_check: Any = importlib.import_module("gpu_check")
gpu_decode: Any = importlib.import_module("gpu_decode")
gpu_encode: Any = importlib.import_module("gpu_encode")
gpu_corpus: Any = importlib.import_module("gpu_corpus")
bench_record: Any = importlib.import_module("record")

DMON = """\
#!/bin/sh
case "$*" in *query-gpu*) echo 580.1; exit ;; esac
echo '# gpu    pwr     sm    dec   mclk   pclk     fb'
echo '# Idx      W      %      %    MHz    MHz     MB'
while sleep 0.1; do echo '    0    700     40     70   3201   1980   2048'; done
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
    assert (last["failed"], last["left_out"], last["dry_run"], last["record"]) == ([], [], True, str(file))
    assert last["missing"].keys() == {"decode: what NVDEC decodes", "decode: PyNvVideoCodec"}
    conditions = first["conditions"]
    assert conditions["checkout"] == str(tmp_path)
    assert (conditions["commit"], conditions["driver"]) == ("abc123", "580.1")
    assert conditions["versions"].keys() >= {"torch", "av", "cupy-cuda13x", "nvidia-dali-cuda130"}
    assert conditions["coding"]["vp9"][2]["g"] == "250"

    by_name = {f"{row['part']}: {row['row']}": row for row in rows}
    order = [
        *(
            "encode: product of matrices",
            "encode: attention: open_clip",
            "encode: kernel: patch_rows",
            "decode: making decoders: 672x378",
        ),
        *("decode: colours: grey and chart", "decode: frame numbers", "encode: 16: open_clip"),
        *(f"encode: 16: {way}" for way in ("graphs", gpu_check.DEFAULT, gpu_check.COMPILED)),
        *("decode: NVDEC to libav", "decode: whole beside trimmed", "decode: NVDEC alone: 8 x 8"),
        *(f"e2e: line: {mode}" for mode in ("nvdec", "cpu", "hybrid", "auto")),
        *("decode: poisoned: no video", "decode: a size that changes"),
    ]
    assert [name for name in by_name if name in order] == order
    assert {f"encode: 16: {way}" for way in gpu_encode.WAYS} < by_name.keys()
    assert {f"encode: {gpu_check.DEFAULT}: {name}" for name in ("DINO2_LARGE", "SigLIP_SO")} < by_name.keys()
    checked = by_name["encode: 16: graphs+patch_rows"]
    assert set(checked["controls_passing"].values()) == {0}
    assert by_name["decode: whole beside trimmed"]["difference"] == 0
    mix = by_name["decode: the mix"]
    assert mix["decoders"] == mix["coded_sizes"] > 3
    assert 15 < mix["of_1080p"] < mix["pictures_a_sample"] < 123  # pictures of the mean clip
    line = by_name["e2e: line: nvdec"]
    assert (line["busy"], line["gpu_mib"]) == ({"GPU": 40, "NVDEC": 70}, 2048)
    assert (line["clock_mhz"], line["power_w"]) == (1980, 700)
    assert line["of_bound"] == pytest.approx(line["samples_per_s"] / min(line["bounds"].values()), 1e-3)
    assert {"encoder, images/s", "encoder, over open_clip"} < last["targets"].keys()
    assert any(name.endswith("12799 clips, s") for name in last["targets"])

    again = check(tmp_path, "--dry-run", "--record", str(file), "--out", str(tmp_path / "more"))
    assert again.returncode == 0, again.stdout + again.stderr
    longer = [json.loads(text) for text in (tmp_path / "more" / file.name).read_text().splitlines()]
    assert longer[: len(rows) + 1] == [first, *rows]
    assert [row.get("missing") for row in longer[len(rows) + 1 :]] == [None, "a GPU", "PyNvVideoCodec"]


def run(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'bench'}:{REPOSITORY}"}
    command = [sys.executable, "-c", program, str(directory)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_without_pyav_the_encoder_is_measured_and_the_rest_says_what_is_missing(tmp_path: Path) -> None:
    program = """if True:
        import sys, pathlib
        sys.modules["av"] = None
        import gpu_check, gpu_encode, record
        there = record.Record(pathlib.Path(sys.argv[1]), {})
        steps = list(gpu_check.steps(gpu_encode.in_small(), there, pathlib.Path(sys.argv[1])))
        assert sum(step.part == "encode" for step in steps) > 10
        gpu_check.go_through(there, [step for step in steps if step.part != "encode"], 100)
    """
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    lacking = [line.partition("missing: ")[2] for line in done.stdout.splitlines()]
    assert lacking == ["a GPU", "av", "av"]


def test_what_a_budget_leaves_no_time_for_is_named_and_a_record_is_gone_on_with(tmp_path: Path) -> None:
    measured: list[str] = []

    def step(stage: int, part: str, name: str, seconds: float) -> Any:
        def measure() -> dict[str, Any]:
            measured.append(name)
            if name == "lacking":
                raise bench_record.Missing("a wheel")
            return {"says": name}

        return gpu_encode.Step(stage, part, name, seconds, measure)

    steps = [
        step(4, "encode", "long", 50),
        step(1, "encode", "first", 5),
        step(3, "decode", "lacking", 5),
        step(5, "encode", "short", 9),
        step(2, "encode", "never", 11),
    ]
    record = bench_record.Record(tmp_path, {"call": 1})
    assert gpu_check.go_through(record, steps, 10) == ["encode: never", "encode: long"]
    assert measured == ["first", "lacking", "short"]

    measured.clear()
    record = bench_record.Record(tmp_path / "next", {"call": 2}, former=record.path)
    assert gpu_check.go_through(record, steps, 99) == []
    assert measured == ["never", "lacking", "long"]
    lines = [json.loads(line) for line in record.path.read_text().splitlines()]
    assert [line.get("row") for line in lines] == [None, "first", "lacking", "short", None, "never", "lacking", "long"]


def test_rows_after_an_error_that_costs_the_gpu_are_left_for_another_process(tmp_path: Path, monkeypatch: Any) -> None:
    steps = [
        gpu_encode.Step(stage, "encode", name, 1, lambda ok=ok: {"ok": ok, "says": ""})
        for stage, name, ok in ((1, "right", True), (2, "wrong", False), (3, "next", True))
    ]
    assert gpu_check.go_through(bench_record.Record(tmp_path / "1", {}), steps, 9) == []
    monkeypatch.setattr(gpu_check, "gpu_is_lost", lambda: True)
    assert gpu_check.go_through(bench_record.Record(tmp_path / "2", {}), steps, 9) == ["encode: next"]


def test_a_row_in_which_the_process_ends_is_in_the_record(tmp_path: Path) -> None:
    program = """if True:
        import os, pathlib, sys, record
        there = record.Record(pathlib.Path(sys.argv[1]), {})
        with there.part("decode"):
            there.row("good", lambda: {"says": "1"})
            there.row("fatal", lambda: os._exit(1))
    """
    run(program, tmp_path)
    (file,) = tmp_path.iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["row"], row.get("ok")) for row in rows[1:]] == [("good", None), ("fatal", False)]


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


@pytest.mark.parametrize(("row", "wrong"), WRONG)
def test_a_kernel_that_is_wrong_fails_its_row_and_no_other(
    tmp_path: Path, monkeypatch: Any, row: str, wrong: Any
) -> None:
    setup = gpu_encode.in_small()
    monkeypatch.setattr(gpu_encode.Setup, "kernels", lambda setup, *names: Kernels(**{row: wrong}))
    record = bench_record.Record(tmp_path, {})
    kernels = [step for step in gpu_encode.steps(setup, record) if step.name.startswith("kernel")]
    gpu_check.go_through(record, kernels, 100)
    assert [name for name, each in record.rows.items() if each["ok"] is not True] == [f"encode: kernel: {row}"]


def frames(numbers: range) -> FrameBatch:
    pictures = list(gpu_corpus.pictures((224, 224), max(numbers) + 1, seed=1))
    return gpu_encode.alone("clip", np.stack([pictures[number] for number in numbers]))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("first", "left_out", "ok"),
    [((0, 0), 0, True), ((1, 0), 0, False), ((0,), 1, False), ((), 2, False)],
)
def test_frames_that_are_not_the_ones_planned_or_left_to_libav_are_no_pass(
    first: tuple[int, ...], left_out: int, ok: bool
) -> None:
    ours = {name: frames(range(at, 8 + at)) for name, at in zip("ab", first, strict=False)}
    for batch in ours.values():
        np.asarray(batch.pixels)[:2, :9] ^= 1
    row = gpu_decode.check_frames(ours, dict.fromkeys("ab", frames(range(8))), +Counter({"codec theora": left_out}))
    assert (row["ok"], list(row["wrong"])) == (ok, ["a"] if 1 in first else [])
    assert ("codec theora" in row["says"]) == bool(left_out)


@pytest.mark.slow
def test_a_line_on_nvdec_that_leaves_samples_to_libav_is_no_pass(tmp_path: Path, monkeypatch: Any) -> None:
    setup, record = gpu_encode.in_small(), bench_record.Record(tmp_path / "record", {})
    of = gpu_decode.Decoding(setup, record, tmp_path)
    notices: list[str] = []

    def line(self: Any, mode: str, tell: Any) -> Any:
        for notice in notices:
            tell(notice)
        return self.parts("cpu")

    monkeypatch.setattr(gpu_decode.Decoding, "line", line)
    assert of.end_to_end("nvdec")["ok"]
    notices.append("decoded on the CPU, not on NVDEC: codec theora; bench/clip is the first")
    assert not of.end_to_end("nvdec")["ok"]
