"""What a run would do is what it then does."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from clips import write_clip

import gpupeak
from gpupeak import ExtractConfig
from gpupeak.check.plan import plan

FILE = 128 + 8 * 256 * 4  # bytes


def test_a_plan_counts_what_a_run_then_does(config: ExtractConfig, tmp_path: Path) -> None:
    new = replace(config, output_root=tmp_path / "new")
    mer2023, iemocap = plan(new)
    assert (mer2023.dataset, mer2023.listed, mer2023.expected, mer2023.done) == ("mer2023", 3, 3, 0)
    assert mer2023.peaks == {"au_info": 1, "merr_data": 1}
    assert mer2023.no_peak == {"no AU file": 1}
    assert iemocap.peaks == {"openface": 1, "per_frame": 1}
    assert mer2023.bytes_to_write == 3 * FILE
    assert not (tmp_path / "new").exists(), "nothing is written"

    report = gpupeak.extract(replace(config, overwrite=True))
    assert [tally.peaks for tally in report.datasets] == [mer2023.peaks, iemocap.peaks]
    after, _ = plan(config)
    assert sum(p.stat().st_size for p in Path(str(after.directory)).glob("*.npy")) == mer2023.bytes_to_write
    assert (after.done, after.bytes_to_write) == (3, 0)
    told = json.loads(json.dumps(after.to_json()))
    assert (told["peaks"], told["no_peak"]) == (mer2023.peaks, mer2023.no_peak)


def test_missing_videos_are_counted_and_named(config: ExtractConfig, tmp_path: Path) -> None:
    write_clip(tmp_path / "here.mp4", frames=9)
    listed = tmp_path / "list.txt"
    listed.write_text("here\ngone\n../out\n")
    (mine,) = plan(replace(config, datasets=(), videos=tmp_path, name="mine", samples=listed, sampling="uniform"))
    assert (mine.listed, mine.missing_videos, mine.missing_first) == (3, 1, ("gone",))
    assert mine.refused == ("../out",)
    assert mine.peaks == mine.no_peak == {}
    assert mine.bytes_to_write == FILE


def test_what_a_download_left_in_the_place_of_videos_is_told(config: ExtractConfig, tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"v{number:02}.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    (tmp_path / "v07.mp4").write_text("<!DOCTYPE html>")
    (mine,) = plan(replace(config, datasets=(), videos=tmp_path, name="mine", sampling="uniform"))
    lfs, page = (warning.split(": ")[1] for warning in mine.warnings)
    assert lfs == "99 files (v00.mp4, v01.mp4, v02.mp4, ...), each is a pointer of Git LFS"
    assert page == "1 file (v07.mp4) is a web page (HTML)"
    os.mkfifo(pipe := tmp_path / "pipe.mp4")
    (mine,) = plan(replace(config, datasets=(), videos=pipe, name="mine", sampling="uniform"))
    assert not mine.warnings, "a pipe is not waited for"
