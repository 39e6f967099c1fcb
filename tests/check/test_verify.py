"""Features checked: what is wrong is found, what is right is left alone, other frames are never taken for them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from clips import write_clip
from faults.media import black
from samples import of_demo, read_manifest, words

import gpupeak
from gpupeak import ExtractConfig
from gpupeak.check.repair import repair
from gpupeak.check.verify import MIN_COSINE, Verification, verify
from gpupeak.cli.app import main
from gpupeak.decode import decode_frames
from gpupeak.demo.corpus import DemoCorpus
from gpupeak.encode.load import load_tower
from gpupeak.encoders import encoder_spec
from gpupeak.errors import ConfigError
from gpupeak.types import Place

torch.set_num_threads(1)

Pictures: TypeAlias = Callable[[Path, list[int]], npt.NDArray[Any]]
DIM = 256
MEANINGLESS = "weights random:0: these features mean nothing"
FIRST, SECOND, THIRD = "sample_00000000", "sample_00000001", "sample_00000002"
ALL = (FIRST, SECOND, THIRD)


@pytest.fixture
def config(config: ExtractConfig) -> ExtractConfig:
    return replace(config, datasets=("mer2023",))


@pytest.fixture
def own(config: ExtractConfig, tmp_path: Path) -> ExtractConfig:
    (tmp_path / "videos").mkdir()
    return replace(
        config, datasets=(), videos=tmp_path / "videos", name="mine", sampling="uniform", output_root=tmp_path / "own"
    )


def home(where: ExtractConfig | Path) -> Path:
    """Where the features of mer2023 are, or of the only dataset, below the output root."""
    root = Path(where.output_root if isinstance(where, ExtractConfig) else where)
    (directory,) = max(path for path in root.iterdir() if path.is_dir()).iterdir()
    return directory


def look(config: ExtractConfig, **options: Any) -> Verification:
    (found,) = verify(config, **options)
    json.dumps(found.to_json(), allow_nan=False)
    return found


def faults(found: Verification) -> dict[str, tuple[str, str]]:
    assert len({fault.sample for fault in found.faults}) == len(found.faults)
    return {fault.sample: (fault.kind, fault.reason) for fault in found.faults}


def save(path: Path, array: npt.NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, array)


def change(path: Path, value: float = 0.25, where: tuple[int, int] | EllipsisType = ...) -> None:
    """Write a value into an array, all over it unless told where."""
    array = np.load(path)
    array[where] = value
    save(path, array)


def as_before(directory: Path) -> None:
    """Leave the manifest as it was before checksums, and what a plan was made of, were recorded."""
    manifest = directory / "manifest.jsonl"
    manifest.write_text(re.sub(r',"crc32":[0-9]+.*', "}", manifest.read_text()))


def state(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every file of features: bytes, when it was written, and its number, which a rename changes."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in directory.glob("*.npy")
    }


def test_what_extract_has_made_is_right(config: ExtractConfig) -> None:
    (home(config) / ".gpupeak-123-4.tmp").write_bytes(b"half a file")
    save(home(config) / "samplenew_00000000.npy", np.ones((8, DIM), np.float32))  # of the training split
    root = Path(config.output_root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    found = look(config)
    assert found.ok
    assert (found.dataset, found.listed, found.expected, found.whole, found.unknown) == ("mer2023", 3, 3, 3, 0)
    assert found.directory == home(config)
    assert found.devices == ("cpu",)
    assert (found.faults, found.problems, found.warnings, found.duplicates) == ([], [], [MEANINGLESS], [])
    assert found.counts == dict.fromkeys(["missing", "broken", "stale", "alike", "changed", "different"], 0)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SIZE = 128 + 4 * 8 * DIM


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), f"{SIZE - 1} bytes, expected {SIZE}"),
        (lambda path: path.write_text("no features " * 1000), "no .npy file (12000 bytes)"),
        (lambda path: os.truncate(path, 1 << 40), f"{1 << 40} bytes, expected {SIZE}"),
        (lambda path: save(path, np.load(path).astype("<f2")), f"float16 [8, {DIM}], expected float32 [8, {DIM}]"),
        (lambda path: save(path, np.load(path).astype(">f4")), f">f4 [8, {DIM}], expected float32 [8, {DIM}]"),
        (lambda path: save(path, np.ones(8, np.float32)), f"float32 [8], expected float32 [8, {DIM}]"),
        (lambda path: save(path, np.load(path)[:4]), f"float32 [4, {DIM}], expected float32 [8, {DIM}]"),
        (lambda path: save(path, np.asfortranarray(np.load(path))), f"float32 [8, {DIM}], Fortran order, exp"),
        (lambda path: np.save(path, np.array([{"a": 1}], dtype=object)), "object [1], expected float32"),
        (lambda path: change(path, np.nan, (3, 5)), f"1 of {8 * DIM} values are not finite"),
        (lambda path: change(path, 3e38, (2, 9)), "a value of 3e+38, expected at most 65504"),
        (change, "every value is 0.25"),
        (pipe, "cannot be read: not a regular file"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_broken_file_is_named_with_what_is_wrong(
    damage: Callable[[Path], object], reason: str, config: ExtractConfig
) -> None:
    damage(home(config) / f"{SECOND}.npy")
    found = look(config)
    ((name, (kind, told)),) = faults(found).items()
    assert (name, kind) == (SECOND, "broken")
    assert told.startswith(reason)
    assert (found.whole, found.ok, found.mendable) == (2, False, (SECOND,))


def test_what_is_not_as_it_was_saved_is_broken(config: ExtractConfig) -> None:
    files = [home(config) / f"{name}.npy" for name in (FIRST, SECOND)]
    for file, other in zip(files, [file.read_bytes() for file in reversed(files)], strict=True):
        file.write_bytes(other)
    found = look(config)
    assert {name: kind for name, (kind, _) in faults(found).items()} == dict.fromkeys([FIRST, SECOND], "broken")
    assert all("not what was saved: its checksum" in reason for _, reason in faults(found).values())
    repair(config, [found])
    assert look(config, deep=3).ok


def listing(directory: Path, *names: str) -> Path:
    (directory / "names.txt").write_text("".join(f"{name}\n" for name in names))
    return directory / "names.txt"


def test_missing_samples_are_named_with_the_reason_that_is_known(own: ExtractConfig, tmp_path: Path) -> None:
    for name in ("good", "later"):
        write_clip(tmp_path / f"videos/{name}.mp4", frames=9)
    (tmp_path / "videos/broken.mp4").write_text("no video")
    before = replace(own, samples=listing(tmp_path, "good", "broken", "gone", "../out"))
    everything = look(before)
    assert faults(everything)["good"] == ("missing", "no file")
    assert faults(everything)["gone"] == ("missing", "no file, and no video of this name")
    assert everything.mendable == ("good", "broken"), "what has no video cannot be"
    gpupeak.extract(before)
    found = look(replace(own, samples=listing(tmp_path, "good", "broken", "gone", "later", "../out")))
    told = faults(found)
    assert {kind for kind, _ in told.values()} == {"missing"}
    assert told.keys() == {"broken", "gone", "later", "../out"}
    assert told["broken"][1].startswith("plan: ")
    assert told["gone"][1] == "find: no video file of this name"
    assert told["../out"][1] == "the name holds a path separator"
    assert (found.listed, found.expected, found.whole) == (5, None, 1)


def test_one_samples_file_in_anothers_place_is_found_and_the_right_one_acquitted(config: ExtractConfig) -> None:
    directory = home(config)
    shutil.copy(directory / f"{FIRST}.npy", directory / f"{THIRD}.npy")
    assert [(fault.sample, fault.kind) for fault in look(config).faults] == [(THIRD, "broken")]
    as_before(directory)
    found = look(config)
    assert faults(found) == {
        FIRST: ("alike", f"the same features as {THIRD}, and another video"),
        THIRD: ("alike", f"the same features as {FIRST}, and another video"),
    }
    assert found.duplicates == []
    again = look(config, deep=2)
    assert {(fault.sample, fault.kind) for fault in again.faults} == {(THIRD, "alike"), (THIRD, "changed")}
    assert again.mendable == (THIRD,)


def test_the_same_video_twice_is_named_and_no_fault(own: ExtractConfig, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_clip(videos / "a.mp4", frames=9)
    shutil.copy(videos / "a.mp4", videos / "b.mp4")
    (videos / "c.mp4").write_bytes((videos / "a.mp4").read_bytes().replace(b"Lavf", b"Ravf"))  # the same pictures
    gpupeak.extract(own)
    found = look(own)
    assert found.duplicates == [("a", "b")]
    assert {name: kind for name, (kind, _) in faults(found).items()} == dict.fromkeys("abc", "alike")
    assert faults(found)["b"][1] == "the same features as c, and another video"
    assert look(own, deep=3).ok, "extracted again, they are the same again"
    (videos / "c.mp4").unlink()
    assert look(replace(own, samples=listing(tmp_path, "a", "b"))).ok
    gone = look(replace(own, samples=listing(tmp_path, "a", "b", "c")))
    assert set(faults(gone)) == set("abc"), "a video that is not there is like no other"


def test_a_still_picture_is_a_warning_until_it_is_extracted_again(own: ExtractConfig, tmp_path: Path) -> None:
    black(tmp_path / "videos/still.mkv", (96, 64), "ffv1", "yuv420p", frames=9)
    write_clip(tmp_path / "videos/one.mp4", frames=1)
    write_clip(tmp_path / "videos/moving.mp4", frames=20)
    gpupeak.extract(own)
    as_before(home(own))
    moving = home(own) / "moving.npy"
    right = np.load(moving)
    save(moving, right[:1].repeat(8, axis=0))
    found = look(own)
    assert found.ok
    meaningless, single, warning = found.warnings
    assert meaningless == MEANINGLESS
    assert single == f"{found.dataset}: 1 sample saved: the video has a single frame"
    assert re.search(r"the same in 2 samples \(moving, still\)", warning), "of one frame they have to be"
    assert set(faults(look(own, deep=2))) == {"moving"}
    save(moving, right)
    deep = look(own, deep=1)
    assert deep.ok
    assert deep.warnings == [MEANINGLESS, single]


def test_files_of_unknown_origin_are_counted(config: ExtractConfig) -> None:
    directory = home(config)
    lines = [entry for entry in read_manifest(directory) if entry["sample"] != FIRST]
    (directory / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"sample": "sam')
    found = look(config)
    assert found.ok
    assert found.unknown == 1
    assert "mer2023: 1 of 3 files of unknown origin: no run's manifest tells of them" in found.warnings
    for line in ("[1]", '{"sample": 3}', '{"sample": "sample_00000000", "fallback": 3, "indices": {}}'):
        (directory / "manifest.jsonl").write_text(f"{line}\n")
        assert look(config).unknown == 3
    (directory / "manifest.jsonl").unlink()
    (directory / "run.json").unlink()
    assert look(config).ok
    gpupeak.extract(replace(config, samples=listing(directory.parent, FIRST)))
    assert look(config).unknown == 3, "kept, and recorded as of unknown origin"


@pytest.fixture(scope="module")
def encoded(corpus: DemoCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output root with the features that a tower makes. Read it only."""
    out = tmp_path_factory.mktemp("encoded")
    gpupeak.extract(of_demo(corpus, out, datasets=("mer2023",)))
    return out


@pytest.fixture
def real(corpus: DemoCorpus, encoded: Path, tmp_path: Path) -> ExtractConfig:
    """The settings of that extraction: a copy, which may be changed."""
    shutil.copytree(encoded, tmp_path / "real")
    return of_demo(corpus, tmp_path / "real", datasets=("mer2023",))


@pytest.fixture(scope="module")
def made(corpus: DemoCorpus, encoded: Path) -> Callable[[Pictures, Place], None]:
    """Writes the features of other pictures over a copy of the tree: of what it is given makes of video and indices."""
    tower = load_tower(encoder_spec("open_clip:ViT-S-32-alt"), "random:0")
    videos = {path.stem: path for path in corpus.dataset_root.rglob("*.mp4")}

    def make(pictures: Pictures, out: Place) -> None:
        as_before(home(Path(str(out))))
        for entry in read_manifest(home(encoded)):
            frames = torch.from_numpy(np.ascontiguousarray(pictures(videos[entry["sample"]], entry["indices"])))
            with torch.inference_mode():
                features = tower(frames).numpy()
            save(home(Path(str(out))) / f"{entry['sample']}.npy", features)

    return make


def neighbours(video: Path, indices: list[int]) -> npt.NDArray[np.uint8]:
    last = indices[-1]
    return decode_frames(video, [index + 1 if index < last else index - 1 for index in indices])


def rounded_otherwise(video: Path, indices: list[int]) -> npt.NDArray[np.uint8]:
    """0.4 of 255 on average, as far as decord may be from libav."""
    pixels = decode_frames(video, indices).astype(int)
    pixels += np.random.default_rng(len(indices)).choice([-1, 0, 1], pixels.shape, p=[0.2, 0.6, 0.2])
    return pixels.clip(0, 255).astype(np.uint8)


def test_other_frames_are_found_in_every_sample(
    made: Any, real: ExtractConfig, encoded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(neighbours, real.output_root)
    assert look(real).ok, "there is nothing wrong with the files"
    for kind, found in (("different", look(real, against=encoded)), ("changed", look(real, deep=3))):
        assert {name: told for name, (told, _) in faults(found).items()} == dict.fromkeys(ALL, kind)
        comparison = found.against or found.deep
        assert comparison is not None
        assert (comparison.compared, comparison.differing, len(comparison.worst)) == (3, 3, 3)
        assert min(each.cosine for each in comparison.worst) > 0.9998, "plainly, they are the same"
    capsys.readouterr()
    assert main(["verify", *words(real), "--against", str(encoded)]) == 1
    out, _ = capsys.readouterr()
    assert f"mer2023, compared: with {home(encoded)}: 3 samples, 3 different; cosine of the worst frame" in out
    assert re.search(rf"^  {FIRST}: row \d: cosine 0\.9999\d\d, less the mean 0\.999", out, re.MULTILINE)
    assert out.endswith("not all is well: 3 samples not right\n")


def test_another_rounding_is_not_another_frame(made: Any, real: ExtractConfig, encoded: Path) -> None:
    made(rounded_otherwise, real.output_root)
    found = look(real, against=encoded)
    assert found.ok, found.faults
    comparison = found.against
    assert comparison is not None
    assert comparison.where == str(home(encoded))
    assert (comparison.compared, comparison.differing) == (3, 0)
    assert comparison.median is not None
    assert MIN_COSINE < comparison.median <= 1 + 1e-12
    assert main(["verify", *words(real), "--against", str(encoded), "--min-cosine", "0.99999"]) == 1
    assert not look(real, deep=3).ok, "one decoder rounds one way"
    run = home(real) / "run.json"
    run.write_text(run.read_text().replace('"cpu"', '"cuda:0"'))
    assert look(real, deep=3).ok
    made(neighbours, real.output_root)
    assert {FIRST, SECOND} <= set(faults(look(real, deep=3))), "of consecutive frames, the next one is in its place"


def test_what_is_drawn_depends_on_the_seed_alone(config: ExtractConfig) -> None:
    def drawn(seed: int) -> list[str]:
        deep = look(replace(config, seed=seed), deep=1).deep
        return [difference.sample for difference in deep.worst] if deep else []

    found = [drawn(seed) for seed in range(4)]
    assert drawn(0) == found[0] and len(found[0]) == 1
    assert len({*map(tuple, found)}) > 1


def test_what_is_extracted_otherwise_or_not_at_all_is_a_fault_and_what_has_no_video_is_not_drawn(
    own: ExtractConfig, tmp_path: Path
) -> None:
    for name, frames in {"a": 62, "b": 9, "c": 12, "d": 15}.items():
        write_clip(tmp_path / f"videos/{name}.mp4", frames)
    own = replace(own, samples=listing(tmp_path, *"abcd"))
    gpupeak.extract(own)
    as_before(home(own))
    write_clip(tmp_path / "videos/a.mp4", frames=30)
    (tmp_path / "videos/b.mp4").write_text("no video any more")
    (tmp_path / "videos/c.mp4").unlink()
    found = look(own, deep=9)
    assert {name: kind for name, (kind, _) in faults(found).items()} == {"a": "changed", "b": "changed"}
    assert re.search(r"; frames \[0, 7, 15.*\] then, \[0, 3, 7.*\] now$", faults(found)["a"][1])
    assert faults(found)["b"][1].startswith("cannot be extracted again: plan: ")
    assert found.deep is not None
    assert found.deep.compared == 2


def test_what_only_one_tree_has_is_a_warning(config: ExtractConfig, extracted: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(extracted, other)
    (home(other) / f"{FIRST}.npy").unlink()
    (home(config) / f"{SECOND}.npy").unlink()
    found = look(config, against=other)
    assert faults(found) == {SECOND: ("missing", "no file")}
    assert found.against is not None
    assert (found.against.only_here, found.against.only_there, found.against.compared) == ((FIRST,), (SECOND,), 1)
    assert found.warnings[-2:] == [
        f"mer2023: 1 sample not in {home(other)}: {FIRST}",
        f"mer2023: 1 sample only in {home(other)}: {SECOND}",
    ]


def test_comparing_with_nothing_or_with_itself_is_wrong_use(config: ExtractConfig, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(config.output_root)
    with pytest.raises(ConfigError, match="compared with themselves"):
        verify(config, against=link)
    (tmp_path / "empty" / home(config).relative_to(config.output_root)).mkdir(parents=True)
    found = look(config, against=tmp_path / "empty")
    assert not found.ok
    assert found.problems == [f"no sample in common with {home(tmp_path / 'empty')}"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_missing_or_broken_is_mended_and_nothing_else_touched(
    overwrite: bool, config: ExtractConfig, extracted: Path
) -> None:
    directory, config = home(config), replace(config, overwrite=overwrite)
    change(directory / f"{FIRST}.npy", np.nan, (3, 5))
    (directory / f"{SECOND}.npy").unlink()
    run = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**run, "device": "cuda:0", "devices": ["cuda:0"]}))
    before, lines = state(directory), {e["sample"]: e for e in read_manifest(directory)}
    found = look(config)
    assert found.mendable == (FIRST, SECOND)
    (tally,) = repair(config, [found]).datasets
    assert (tally.saved, tally.skipped, tally.failed) == (2, 1, 0)
    after = state(directory)
    assert after[f"{THIRD}.npy"] == before[f"{THIRD}.npy"]
    assert after[f"{FIRST}.npy"][2] != before[f"{FIRST}.npy"][2], "another file, put in its place as a whole"
    assert {name: data for name, (data, *_) in after.items()} == {n: d for n, (d, *_) in state(home(extracted)).items()}
    now = {e["sample"]: e for e in read_manifest(directory)}
    assert len(list(read_manifest(directory))) == 3
    assert now[THIRD] == lines[THIRD]
    again = look(config, deep=3)
    assert (again.ok, again.devices) == (True, ("cpu", "cuda:0"))


def test_the_command_tells_what_is_wrong_and_mends_it(
    config: ExtractConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *words(config)]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert re.search(r"^mer2023 +3/3 +3 +0 +0$", out, re.MULTILINE)
    assert out.endswith("all is well\n")

    directory = home(config)
    change(directory / f"{FIRST}.npy")
    assert main(["verify", *words(config)]) == 1
    out, _ = capsys.readouterr()
    assert f"mer2023, broken: 1\n  {FIRST}: every value is 0.25\n" in out
    assert out.endswith("not all is well: 1 sample not right; --fix extracts 1 of them again\n")
    assert main(["verify", *words(config), "--fallback", "middle"]) == 1
    assert "--fix" not in capsys.readouterr().out, "that would be refused"
    assert main(["verify", *words(config), "--quiet"]) == 1
    out, error = capsys.readouterr()
    assert error == ""
    assert "3/3" not in out
    assert FIRST in out

    assert main(["verify", *words(config), "--fix", "--deep", "1", "--json"]) == 0
    out, error = capsys.readouterr()
    assert out.count("\n") == 1
    summary = json.loads(out)
    assert (summary["exit_code"], summary["error"], summary["fixed"]["saved"]) == (0, None, 1)
    (found,) = summary["datasets"]
    assert (found["ok"], found["whole"], found["deep"]["compared"]) == (True, 3, 1)
    assert "extracting 1 sample again" in error
    assert main(["verify", *words(config), "--fix", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fixed"] is None
