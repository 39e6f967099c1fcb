"""What came of a run: every count against its manifest, and features that stand out told for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from clips import write_clip

from gpupeak import ExtractConfig
from gpupeak.errors import RunError
from gpupeak.report.contents import BROKEN, FAILED, MISSING, SAVED, Overview, overview

SUB = "mine/frame_CLIP_VIT_LARGE_emotion_peak_8frms"


def features(seed: int, spread: float = 0.1) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(seed)
    sample = 1 + 0.3 * random.normal(size=768)
    return (sample + spread * random.normal(size=(8, 768))).astype(np.float32)


def save(root: Path, name: str, rows: npt.NDArray[np.float32], sub: str = SUB) -> None:
    (root / sub).mkdir(parents=True, exist_ok=True)
    np.save(root / sub / f"{name}.npy", rows)


def line(name: str, **more: Any) -> dict[str, Any]:
    peak = {"index": 30, "before": None, "after": None, "total": None, "source": "openface", "file": "/x"}
    entry = {"sample": name, "outcome": "saved", "indices": list(range(8)), "frames": 40, "codec": "h264"}
    return {**entry, "peak": peak, "fallback": None, "clamp": None, "seconds": {"plan": 0.25, "decode": 1.0}, **more}


def manifest(root: Path, *lines: object, sub: str = SUB) -> None:
    (root / sub).mkdir(parents=True, exist_ok=True)
    (root / sub / "manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    (root / sub / "run.json").write_text(json.dumps({"settings": {"encoder": "CLIP_VIT_LARGE"}}))


def listed(root: Path, *names: str) -> ExtractConfig:
    (root / "videos").mkdir(parents=True, exist_ok=True)
    (root / "list.txt").write_text("\n".join(names))
    return ExtractConfig(videos=root / "videos", name="mine", samples=root / "list.txt", output_root=root)


def look(config: ExtractConfig, **more: Any) -> Overview:
    (found,) = overview(config, **more)
    return found


def test_features_that_cannot_be_listed_are_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / SUB).symlink_to(tmp_path / SUB)
    with pytest.raises(RunError, match=f"{SUB}: cannot be read: Too many levels"):
        look(listed(tmp_path, "a"))


def test_every_count_is_the_manifests(tmp_path: Path) -> None:
    manifest(
        tmp_path,
        line("whole"),
        line("clamped", clamp="peak 90 -> 39; 2 indices -> 39"),
        line("fallback", warnings=["one frame"], peak=None, fallback={"reason": "no AU file", "detail": "x"}),
        {"sample": "failed", "outcome": "failed", "stage": "decode", "reason": "no moov atom"},
        line("lost"),
        line("torn"),
        line("again", peak=None),
        line("again"),
        {"sample": "kept", "outcome": "kept", "origin": "unknown"},
    )
    for seed, name in enumerate(("whole", "clamped", "fallback", "again", "kept", "stray")):
        save(tmp_path, name, features(seed))
    (tmp_path / SUB / "torn.npy").write_bytes(b"torn")
    names = ("whole", "clamped", "fallback", "failed", "lost", "torn", "again", "kept", "never")
    found = look(listed(tmp_path, *names))
    assert [row.sample.name for row in found.rows] == list(names)
    assert [row.outcome for row in found.rows] == [*[SAVED] * 3, FAILED, MISSING, BROKEN, SAVED, SAVED, MISSING]
    assert found.rows[1].remarks == ("clamped: peak 90 -> 39; 2 indices -> 39",)
    assert found.failures["decode: no moov atom"] == 1
    assert found.failures.total() == 2
    assert (found.stage_seconds, found.timed) == ({"plan": 1.25, "decode": 5.0}, 5)
    assert "1 file of no sample of the list" in found.remarks
    told = found.to_json()
    assert found.rows[2].remarks == ("fell back: no AU file", "one frame")
    assert (told["warned"], told["warnings"]) == (1, {"one frame": 1})
    counts = {"listed": 9, "saved": 5, "failed": 1, "missing": 2, "broken": 1, "clamped": 1}
    assert {key: told[key] for key in counts} == counts
    assert (told["peaks"], told["fallbacks"]) == ({"openface": 3}, {"no AU file": 1})
    assert json.loads(json.dumps(told)) == told


def test_records_and_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    manifest(tmp_path, line("a"), line("b"))
    (tmp_path / SUB / "run.json").write_text("[]")
    save(tmp_path, "a", np.full((8, 768), np.nan, np.float32))
    save(tmp_path, "b", features(0))
    found = look(listed(tmp_path, "a", "b"))
    assert [(row.outcome, row.source) for row in found.rows] == [(BROKEN, "openface"), (SAVED, "openface")]
    assert "not finite" in found.rows[0].why and str(tmp_path) not in found.rows[0].why
    assert found.run == {} and any("run.json" in remark for remark in found.remarks), "and no error"
    assert f"no video is at hand in {tmp_path / 'videos'}" in found.remarks


def test_samples_that_stand_out_are_named_by_what_is_wrong_with_them(tmp_path: Path) -> None:
    odd = {
        "frozen": np.repeat(features(100)[:1], 8, axis=0),
        "elsewhere": -features(101),
        "noise": features(102, spread=4.0),
        "still": features(103, spread=0.001),
    }
    repeated = np.repeat(features(104)[:1], 8, axis=0)  # one frame, as it was planned
    for name, rows in {**odd, "repeated": repeated, **{f"s{n}": features(n) for n in range(60)}}.items():
        save(tmp_path, name, rows)
    manifest(tmp_path, line("frozen"), line("repeated", indices=[20] * 8))
    found = look(listed(tmp_path, *odd, "repeated", *(f"s{n}" for n in range(60))))
    assert {row.sample.name: row.unusual for row in found.rows if row.unusual} == {
        "frozen": "its frames differ far less than in the rest of the dataset",
        "elsewhere": "far from the rest of the dataset",
        "noise": "its frames differ far more than in the rest of the dataset",
        "still": "its frames differ far less than in the rest of the dataset",
    }
    assert found.to_json()["unusual"] == 4
    few = look(listed(tmp_path, *odd, *(f"s{n}" for n in range(14))))
    assert not [row for row in few.rows if row.unusual], "of 18 samples none is unusual"


def test_without_lists_and_videos_a_dataset_is_told_from_what_was_extracted(tmp_path: Path) -> None:
    root = tmp_path / "out"
    sub = SUB.replace("mine", "sims")
    save(root, "b", features(0), sub)
    manifest(root, line("b"), {"sample": "a", "outcome": "failed", "stage": "plan", "reason": "x"}, sub=sub)
    for datasets in ((), ("sims",), ("SIMS",)):
        found = look(ExtractConfig(datasets=datasets, dataset_root=tmp_path, output_root=root))
        assert (found.dataset, found.expected) == ("sims", 457)
        assert [(row.sample.name, row.outcome) for row in found.rows] == [("a", FAILED), ("b", SAVED)]
        assert any("the features and the manifest alone" in remark for remark in found.remarks)
        assert found.sheets == {}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filmed")
    (root / "videos").mkdir()
    for number in range(12):
        write_clip(root / f"videos/s{number:02}.mp4", frames=40, seed=number)
        save(root, f"s{number:02}", features(number))
    (root / "videos/s05.mp4").write_bytes(b"no longer a video")
    manifest(root, *[line(f"s{number:02}") for number in range(11)])
    return root


def own(root: Path, **more: Any) -> ExtractConfig:
    return ExtractConfig(videos=root / "videos", name="mine", output_root=root, **more)


def names(found: Overview) -> list[str]:
    return [found.rows[number].sample.name for number in found.sheets]


def test_sheets_are_drawn_at_random_by_the_seed(filmed: Path) -> None:
    one, same, other = (names(look(own(filmed, seed=seed), show=4, show_unusual=0)) for seed in (1, 1, 2))
    assert one == same != other
    assert names(look(own(filmed), show=0, show_unusual=0)) == []


def test_named_and_unusual_samples_come_first(filmed: Path) -> None:
    found = look(own(filmed), show=1, show_unusual=2, show_samples=["s07", "mine/s03"])
    shown = names(found)
    assert shown[:2] == ["s03", "s07"]
    assert len(shown) == len(set(shown)) == 5


FAULTS = """
import os, signal, time
import gpupeak.report.sheets as sheets

real, faults = sheets.open_clip, {"s02": lambda: os.kill(os.getpid(), signal.SIGSEGV), "s03": lambda: time.sleep(1000)}
sheets.open_clip = lambda path: real(path) if path.stem not in faults else faults[path.stem]()
"""


def test_a_video_that_cannot_be_shown_is_told_and_costs_its_sheet_alone(
    filmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAULTS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    told: list[str] = []
    asked = ["s01", "s02", "s03", "s04", "s05"]
    found = look(own(filmed, workers=2, time_limit=1.0), show=0, show_unusual=0, show_samples=asked, tell=told.append)
    assert names(found) == asked
    assert [len(sheet.pictures) for sheet in found.sheets.values()] == [8, 0, 0, 8, 0]
    faults = {sheet.title: sheet.fault for sheet in found.sheets.values() if sheet.fault}
    assert faults["mine/s02"] == "decode: the decoding process was ended by SIGSEGV, twice"
    assert faults["mine/s03"] == "decode: the decoding process gave no answer within the time limit, twice"
    assert faults["mine/s05"].startswith("plan: ")
    assert sorted(told) == [f"{title}: not shown: {fault}" for title, fault in faults.items()]
    assert (found.shown, found.to_json()["sheets"]) == (2, 2)


def test_a_sheet_shows_what_was_extracted_or_says_that_nobody_knows(filmed: Path) -> None:
    found = look(own(filmed), show=0, show_unusual=0, show_samples=["s00", "s11"])
    known, unknown = found.sheets.values()
    assert (known.indices, known.peak) == (tuple(range(8)), 30)
    assert unknown.indices[-1] == 39
    assert "no manifest tells its frames: these would be chosen now" in unknown.remarks
