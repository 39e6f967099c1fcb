"""What the benchmark of the stages tells is so: its bound decodes our frames, and wrong frames are noticed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write_clip
from tiny import SPEC

from gpupeak.decode import decode_frames
from gpupeak.demo.corpus import EXPRESSIONS, write_openface
from gpupeak.demo.corpus import Clip as Performance
from gpupeak.video.container import open_clip

REPOSITORY = Path(__file__).resolve().parents[2]
stages: Any = importlib.import_module("stages")
decoders: Any = importlib.import_module("peers.decoders")
record: Any = importlib.import_module("record")
workload: Any = importlib.import_module("workload")

CODED = ("h264", "h264_short_gop", "h264_open_gop", "h264_edit_list", "hevc", "vp9", "mpeg4_avi", "mpeg4_avi_b")
PYAV = {"PyAV seeking": decoders.pyav_seeking, "PyAV sequential": decoders.pyav_sequential}
INDICES = [0, 7, 20, 21, 22, 23, 24, 30]


@pytest.mark.parametrize("kind", CODED)
def test_the_bound_decodes_what_gpupeak_decodes(clip_of: Callable[[str], Path], kind: str) -> None:
    bound, expected = stages.Bound(clip_of(kind), INDICES), decode_frames(clip_of(kind), INDICES)
    for _ in range(2):
        assert np.array_equal(bound(), expected)


def test_the_bound_reads_no_file_and_only_what_is_needed(clip_of: Callable[[str], Path]) -> None:
    path = clip_of("h264_short_gop")
    bound = stages.Bound(path, [30])
    with open_clip(path) as clip:
        assert sum(map(len, bound._runs)) == len(clip.needed([30])) < clip.packets


@pytest.mark.parametrize("name", PYAV)
@pytest.mark.parametrize("kind", ["h264", "h264_short_gop", "h264_open_gop", "h264_mkv", "vp9", "mpeg4_avi"])
def test_peers_give_the_frames_asked_for(clip_of: Callable[[str], Path], kind: str, name: str) -> None:
    assert np.array_equal(PYAV[name](clip_of(kind), INDICES), decode_frames(clip_of(kind), INDICES))


def test_a_peer_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("decord", "torchcodec", "cv2"):
        monkeypatch.setitem(sys.modules, package, None)
    found, missing = decoders.peers()
    assert list(found) == list(PYAV)
    assert list(missing) == ["decord", "torchcodec", "OpenCV"]
    assert all("halted" in reason for reason in missing.values())


# Judging


@pytest.fixture(scope="module")
def ours(clip_of: Callable[[str], Path]) -> dict[int, Any]:
    return dict(enumerate(decode_frames(clip_of("h264"), range(48))))


def judged(ours: dict[int, Any], rows: list[int], shade: int = 0) -> dict[str, Any]:
    """What is made of a peer that gives these frames where `INDICES` are asked for, a little brighter."""
    pictures = np.stack([np.clip(ours[row].astype(int) + shade, 0, 255).astype(np.uint8) for row in rows])
    return stages.judge(lambda: pictures, INDICES, ours)  # type: ignore[no-any-return]


def test_right_frames_are_right_whatever_their_shade(ours: dict[int, Any]) -> None:
    assert judged(ours, INDICES) == {"once_s": pytest.approx(0, abs=0.1), "difference": 0, "wrong": 0}
    other = judged(ours, INDICES, shade=2)
    assert (other["wrong"], stages.right(other)) == (0, True)
    assert 1 < other["difference"] < 2.1


def test_wrong_frames_are_counted(ours: dict[int, Any]) -> None:
    assert judged(ours, [index + 1 for index in INDICES])["wrong"] == len(INDICES)
    assert judged(ours, [*INDICES[:-1], 29])["wrong"] == 1
    far = judged(ours, [47 - index for index in INDICES])
    assert (far["wrong"], stages.right(far)) == (len(INDICES), False)


def test_what_raises_is_no_figure(ours: dict[int, Any]) -> None:
    def failing() -> None:
        raise RuntimeError("no such codec\nat all")

    row = stages.judge(failing, INDICES, ours)
    assert row == {"failed": "RuntimeError: no such codec"}
    assert not stages.right(row)


def once(seconds: float, wrong: int = 0) -> dict[str, Any]:
    return {"once_s": seconds, "difference": 1.0, "wrong": wrong}


def test_who_is_timed_beside_gpupeak() -> None:
    rows = {
        "PyAV seeking": once(1.0),
        "PyAV sequential": once(2.0),
        "decord": once(5.0),
        "torchcodec": once(4.0),
        "torchcodec exact": once(3.0),
        "OpenCV seeking": once(0.1, wrong=1),
        "OpenCV grabbing": once(1.4),
    }
    assert stages.contenders(rows) == ["PyAV seeking", "OpenCV grabbing", "decord", "torchcodec exact"]
    assert stages.contenders({"decord": {"failed": "it"}, "torchcodec": once(1.0, wrong=3)}) == []


def row(skips: bool = True, **ratios: float) -> dict[str, Any]:
    named = {name.replace("_", " "): {"median": ratio, "least": ratio, "most": ratio} for name, ratio in ratios.items()}
    return {"skips_gops": skips, "ratios": named}


def test_targets_are_the_worst_clips() -> None:
    rows = {
        "long": row(skips=False, bound=0.95, decord=1.0, torchcodec=1.2, PyAV_seeking=0.99),
        "short": row(bound=0.8, decord=1.6, torchcodec=1.7, torchcodec_exact=1.4, PyAV_seeking=2.0),
        "cuts": row(bound=1.0, decord=1.55),
    }
    targets = {target["what"]: target for target in stages.over_clips(rows)["targets"]}
    found = {
        what: (target["figure"], target["clip"], target["sign"], target["limit"]) for what, target in targets.items()
    }
    assert found == {
        "the fastest peer / gpupeak": (0.99, "long", ">=", stages.NOISE),
        "decord / gpupeak, GOPs to skip": (1.55, "cuts", ">=", 1.5),
        "torchcodec / gpupeak, GOPs to skip": (1.4, "short", ">=", 1.5),
        "gpupeak / bound": (1.25, "short", "<=", 1.1),
    }


def test_without_peers_there_is_only_the_bound() -> None:
    (target,) = stages.over_clips({"clip": row(bound=0.9)})["targets"]
    assert target["what"] == "gpupeak / bound"


def test_a_line_names_who_was_wrong() -> None:
    line = stages.told(
        {
            **row(bound=0.9, decord=1.5),
            "seconds": {"gpupeak": {"median_s": 0.01}},
            "indices": INDICES,
            "judged": {
                "decord": once(0.015),
                "OpenCV seeking": once(0.04),
                "torchcodec": once(0.001, wrong=3),
                "torchcodec exact": {"failed": "RuntimeError: no"},
            },
        }
    )
    assert line == (
        "10.0 ms, bound 0.90, decord 1.50, OpenCV seeking 4.0 once, torchcodec 3 of 8 frames WRONG, "
        "torchcodec exact FAILED"
    )


# The parts, in small


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every part over two clips, without the peers that this environment does not have; the rows as recorded."""
    work = tmp_path_factory.mktemp("work")
    options = {"long_gop": {"g": "250", "bf": "0"}, "short_gop": {"g": "12", "bf": "0"}}
    paths = {}
    for name, coding in options.items():
        (work / "clips").mkdir(exist_ok=True)
        paths[name] = write_clip(work / "clips" / f"{name}.mp4", options=coding)
        write_openface(Performance("bench", name, 48, 30, EXPRESSIONS[0], None), work / "aus")
    scale = dataclasses.replace(workload.QUICK, rounds=1)
    kept = record.Record(work / "record", {})
    with pytest.MonkeyPatch.context() as patch:
        for package in ("decord", "torchcodec", "cv2"):
            patch.setitem(sys.modules, package, None)
        patch.setattr(stages, "make", lambda clips, directory: paths)
        patch.setattr(stages, "real_clips", list)
        patch.setattr(stages, "CLIP_VIT_LARGE", SPEC)
        for part in (stages.planning, stages.decoding, stages.writing, stages.loading):
            with kept.part(part.__name__):
                part(kept, scale, work)
    lines = [json.loads(line) for line in kept.path.read_text().splitlines()[1:]]
    return {f"{line['part']}: {line['row']}": line for line in lines}


def test_every_row_is_measured(walked: dict[str, dict[str, Any]]) -> None:
    assert [name for name, row in walked.items() if row.get("ok") is False] == []
    assert {name: row["says"][:8] for name, row in walked.items() if "left out" in row["says"]} == {
        f"decoding: {name}": "left out" for name in ("decord", "torchcodec", "OpenCV")
    }


def test_planning_is_over_all_clips_and_all_sources(walked: dict[str, dict[str, Any]]) -> None:
    rows = walked["planning: every clip"]
    mean = (rows["seconds"]["long_gop"] + rows["seconds"]["short_gop"]) / 2
    assert rows["samples_per_s"] == pytest.approx(1 / mean, rel=1e-3)
    assert [target["figure"] for target in rows["targets"]] == [rows["samples_per_s"], rows["samples_per_s_for_nvdec"]]
    sources = walked["planning: AU files alone"]["seconds"]
    assert list(sources) == ["au_info", "merr_data", "openface", "openface_wide", "per_frame"]
    assert all(seconds > 0 for seconds in sources.values())


def test_decoding_has_its_conditions_and_its_bound(walked: dict[str, dict[str, Any]]) -> None:
    for name, skips in (("long_gop", False), ("short_gop", True)):
        found = walked[f"decoding: {name}"]
        assert (found["codec"], found["width"], found["height"], found["frames"]) == ("h264", 96, 64, 48)
        assert (len(found["indices"]), found["rounds"], found["skips_gops"]) == (8, 3, skips)
        assert {judged["wrong"] for judged in found["judged"].values()} == {0}
        assert {judged["difference"] for judged in found["judged"].values()} == {0}
        assert set(found["judged"]) == set(PYAV)
        for side, ratio in found["ratios"].items():
            theirs, own = found["seconds"][side], found["seconds"]["gpupeak"]
            least, most = theirs["fastest_s"] / own["slowest_s"], theirs["slowest_s"] / own["fastest_s"]
            assert 0.999 * least <= ratio["median"] <= 1.001 * most
    whole = walked["decoding: every clip"]["targets"]
    assert [target["what"] for target in whole] == ["the fastest peer / gpupeak", "gpupeak / bound"]


def test_writing_writes_so_many_files(walked: dict[str, dict[str, Any]]) -> None:
    found = walked["writing: float32 [8, 768]"]
    assert set(found["files_per_s"]) == {
        "gpupeak", "gpupeak, 2 threads", "gpupeak, 4 threads", "np.save", "np.save and rename",
    }  # fmt: skip
    for side, rate in found["files_per_s"].items():
        assert rate == pytest.approx(found["files"] / found["seconds"][side]["median_s"], rel=1e-3)
        assert found["mb_per_s"][side] == pytest.approx(rate * 24704 / 1e6, rel=1e-3)


def test_each_side_writes_the_same_files(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((20 * 8, 4), np.float32)
    stages._write(stages._batches(tmp_path, features), threads=2)
    stages._save(tmp_path, features, whole=True)
    stages._save(tmp_path, features, whole=False)
    written = [{file.name: file.read_bytes() for file in home.iterdir()} for home in tmp_path.iterdir()]
    assert len(written) == 3
    assert written[0] == written[1] == written[2]
    assert len(written[0]) == 20


def test_loading_is_compared_with_doing_without(walked: dict[str, dict[str, Any]]) -> None:
    one, instead = walked["loading: one file"], walked["loading: instead, PyAV seeking"]
    assert one["us"]["gpupeak"] == pytest.approx(1e6 * one["seconds"]["gpupeak"]["median_s"] / one["files"], rel=1e-3)
    assert one["targets"][0]["figure"] == one["us"]["gpupeak"]
    taken = [sum(each.values()) for each in instead["seconds"].values()]
    for side, times in instead["times"].items():
        assert times == pytest.approx([1e6 * seconds / one["us"][side] for seconds in taken], rel=1e-3)
    too = walked["loading: instead, and encoding"]
    assert all(more > less for more, less in zip(too["times"]["gpupeak"], instead["times"]["gpupeak"], strict=True))


def test_what_is_measured_beside_is_pinned_and_no_part_of_the_product() -> None:
    lines = (REPOSITORY / "bench/peers/requirements.txt").read_text().splitlines()
    wanted = [line.partition("#")[0].strip() for line in lines if not line.startswith("#")]
    assert all("==" in line.partition(";")[0] for line in wanted)
    names = {line.partition("==")[0] for line in wanted}
    assert {"decord", "torchcodec", "opencv-python-headless"} <= names
    product = (REPOSITORY / "pyproject.toml").read_text() + (REPOSITORY / "constraints.txt").read_text()
    assert [name for name in names if f'"{name}>' in product or f"\n{name}==" in product] == []
