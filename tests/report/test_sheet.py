"""Contact sheets: the right frames, in order, marked; as a picture and on a terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from clips import rotate, write_clip
from PIL import Image
from samples import sample

from gpupeak.cli.app import main
from gpupeak.decode import decode_frames
from gpupeak.errors import ConfigError, SampleError
from gpupeak.peaks.reading import Curve
from gpupeak.report import sheets
from gpupeak.report.sheets import Sheet, SheetTask, heights, read_sheets, to_png, to_terminal
from gpupeak.types import Sample, SamplingRule

INDICES = (0, 12, 23, 24, 25, 26, 36, 36)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("sheet") / "clip.mp4", frames=48)


@pytest.fixture(scope="module")
def drawn(video: Path) -> Sheet:
    curve = Curve(tuple(range(48)), tuple(float(24 - abs(i - 24)) for i in range(48)), "openface", Path("x.csv"))
    made = SheetTask(sample(video.parent, video=video), INDICES, 24, 96, ("peak 24",))()
    return dataclasses.replace(made, curve=curve)


def number(picture: npt.NDArray[np.uint8]) -> int:
    """The number that is drawn in binary along the top of a frame of 96x64."""
    return sum(int(picture[4:12, bit * 8 + 2 : bit * 8 + 6].mean() > 128) << bit for bit in range(6))


def test_a_sheet_holds_the_frames_asked_for_in_order(drawn: Sheet, video: Path) -> None:
    assert [number(picture) for picture in drawn.pictures] == list(INDICES)
    assert drawn.times == tuple(pytest.approx(index / 25) for index in INDICES)
    assert {picture.shape for picture in drawn.pictures} == {(64, 96, 3)}
    assert drawn.frames == 48
    assert SheetTask(sample(video.parent, video=video), INDICES, 900)().peak == 47, "a peak past the end is the last"
    full = decode_frames(video, [24], size=None)[0].astype(int)
    assert np.abs(full - drawn.pictures[3].astype(int)).mean() < 12  # squashed and stretched again


def test_many_pictures_are_small_and_too_many_are_refused(video: Path) -> None:
    task = SheetTask(sample(video.parent, n=1024, video=video), side=96)
    assert {picture.shape for picture in task().pictures} == {(32, 48, 3)}
    with pytest.raises(ConfigError, match="33 contact sheets have 8,448 pictures, expected at most 8,192"):
        list(read_sheets([task] * 33))


def test_a_turned_video_is_shown_upright(video: Path, tmp_path: Path) -> None:
    turned = rotate(video, tmp_path / "turned.mp4", (0, 1, -1, 0))
    (picture,) = SheetTask(sample(tmp_path, video=turned), (3,), side=96)().pictures
    assert picture.shape == (96, 64, 3)


def test_faces_are_shown_in_their_own_colours(tmp_path: Path) -> None:
    faces = np.zeros((5, 40, 20, 3), np.uint8)
    faces[3, :, :, 0] = 255  # blue, as OpenCV stores it
    np.save(tmp_path / "clip.npy", faces)
    (tmp_path / "clip.csv").write_text("frame, success, AU12_r\n1, 1, 2.0\n2, 1, 3.0\n")
    rule = SamplingRule("uniform")
    face = Sample("mine", "clip", tmp_path / "clip.npy", (tmp_path,), rule, tmp_path / "x.npy", "face")
    found = SheetTask(face, (1, 3), side=80)()
    assert found.curve is None, "its frames are the video's"
    assert [picture.shape for picture in found.pictures] == [(80, 40, 3)] * 2
    assert found.pictures[1].reshape(-1, 3).mean(0).tolist() == [0, 0, 255]
    assert (found.times, found.captions(), found.frames) == ((), ["1", "3"], 5)
    with pytest.raises(SampleError, match="face 9 planned, file has 5"):
        SheetTask(face, (9,))()


def test_heights_span_the_clip_and_break_where_there_is_no_face() -> None:
    curve = Curve((0, 1, 2, 5, 9, 50), (0.0, 1.0, 4.0, 2.0, 1.0, 9.0), "openface", Path("x"))
    lines = heights(curve, frames=10)
    assert [[point[0] * 9 for point in line] for line in lines] == [[0, 1, 2], [5], [9]]
    assert [[point[1] for point in line] for line in lines] == [[0, 0.25, 1], [0.5], [0.25]]


def test_heights_of_a_long_clip_keep_every_peak() -> None:
    values = [0.1] * 10_000
    values[7_777] = 5.0
    ((*line,),) = heights(Curve(tuple(range(10_000)), tuple(values), "openface", Path("x")), 10_000)
    assert len(line) == 400
    assert max(line, key=lambda point: point[1]) == pytest.approx((0.7777, 1.0), abs=0.003)


def test_the_picture_shows_every_frame_and_marks_the_peak(drawn: Sheet) -> None:
    image = np.asarray(Image.open(io.BytesIO(to_png(drawn))))
    top = image.shape[0] - 122  # above the lower margin and the captions
    lefts = [32 + place * (96 + 12) for place in range(8)]
    for left, picture in zip(lefts, drawn.pictures, strict=True):
        assert (image[top : top + 64, left : left + 96] == picture).all()
    rims = [image[top - 2, left + 40].tolist() for left in lefts]
    assert [place for place, colour in enumerate(rims) if colour == [0xC2, 0x41, 0x0C]] == [INDICES.index(24)]


def test_blocks_keep_within_the_terminal_and_mark_the_peak(drawn: Sheet) -> None:
    text = to_terminal(drawn, 80)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
    assert "█" in lines[0]
    assert lines[1].count("▲") == 1
    assert lines[1].index("▲") == round(24 / 47 * 79)
    assert sum(line.count("▀") > 60 for line in lines) > 8
    assert "24 · 0.96 s peak" in text
    assert re.findall(r"\x1b\[(?!0m|38;2;\d+;\d+;\d+;48;2;\d+;\d+;\d+m)", text) == []


@pytest.mark.parametrize("columns", [1, 20, 63, 64, 80, 500])
def test_blocks_fit_any_width(drawn: Sheet, columns: int) -> None:
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in to_terminal(drawn, columns).splitlines()]
    assert max(map(len, lines)) <= min(max(columns, 16), 160)


def test_inspect_writes_the_sheet(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    assert main(["inspect", str(video), "--sampling", "uniform", "--show", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["indices"] == list(range(0, 48, 6))
    with Image.open(out) as image:
        assert image.size[0] > 8 * 320
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    assert main(["inspect", str(video), "--sampling", "uniform", "--show", f"{tmp_path}/none/a.png"]) == 3
    assert capsys.readouterr().err.endswith("/none/a.png: cannot be written: No such file or directory\n")


def test_inspect_shows_on_a_terminal_and_says_what_to_install(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["inspect", "--show", str(video), "--fallback", "uniform"]) == 0
    assert "▀" in capsys.readouterr().out
    monkeypatch.setattr(sheets, "find_spec", lambda name: None)
    assert main(["inspect", str(video), "--sampling", "uniform", "--show", "x.png"]) == 2
    assert capsys.readouterr().err == "error: this needs PIL: pip install 'gpupeak[report]'\n"
