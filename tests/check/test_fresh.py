"""Features of a video or of frames that would not be taken now: all commands see them, and only they are made again."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
from clips import write_clip
from samples import of_demo, read_manifest, words
from synthetic_lines import LineHere

import gpupeak
from gpupeak.check.plan import plan
from gpupeak.check.repair import repair
from gpupeak.check.verify import Verification, verify
from gpupeak.cli.app import main
from gpupeak.demo.corpus import DemoCorpus
from gpupeak.tally import Observer

FIRST, SECOND, THIRD = "sample_00000000", "sample_00000001", "sample_00000002"  # the third has no AU file
Change: TypeAlias = Callable[["Tree"], None]


class Tree:
    """A finished extraction and all that it was made of, both to be changed; `reset` undoes that."""

    def __init__(self, corpus: DemoCorpus, root: Path) -> None:
        self.root, self.pristine = root, root.with_name("pristine")
        shutil.copytree(corpus.dataset_root, root / "data")
        shutil.copytree(corpus.mer_factory_output, root / "aus")
        places = {"dataset_root": root / "data", "mer_factory_output": root / "aus", "datasets": ("mer2023",)}
        self.config = self.settings = of_demo(corpus, root / "out", **places)
        self.videos, self.aus = root / "data/mer2023-dataset-process/video", root / "aus/MER2023"
        gpupeak.extract(self.config)
        (self.home,) = (root / "out/mer2023").iterdir()
        self.analysis = self.aus / FIRST / f"{FIRST}_au_analysis.json"
        shutil.copytree(root, self.pristine)

    def reset(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.pristine, self.root)
        self.config = self.settings

    def state(self) -> dict[str, tuple[int, int]]:
        return {path.stem: (path.stat().st_mtime_ns, path.stat().st_ino) for path in self.home.glob("*.npy")}

    def look(self) -> Verification:
        (found,) = verify(self.config)
        return found

    def stale(self) -> dict[str, str]:
        found = self.look()
        assert {fault.kind for fault in found.faults} <= {"stale"}
        return {fault.sample: fault.reason for fault in found.faults}

    def forget(self, *keys: str) -> None:
        """Leave the manifest as it was before these were recorded."""
        lines = [{k: v for k, v in line.items() if k not in keys} for line in read_manifest(self.home)]
        (self.home / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def made(corpus: DemoCorpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpupeak.lines.build.build", LineHere)
        yield Tree(corpus, tmp_path_factory.mktemp("fresh") / "work")


@pytest.fixture
def tree(made: Tree) -> Tree:
    made.reset()
    return made


def au_changed(tree: Tree) -> None:
    document = json.loads(tree.analysis.read_text())
    document["au_info"]["peak_frames"][0]["peak_index"] += 5
    tree.analysis.write_text(json.dumps(document))


def au_added(tree: Tree) -> None:
    shutil.copytree(tree.aus / SECOND, tree.aus / THIRD)
    (file,) = (tree.aus / THIRD).iterdir()
    file.rename(file.with_name(file.name.replace(SECOND, THIRD)))


def video_of_the_same_size(tree: Tree) -> None:
    data = bytearray((tree.videos / f"{FIRST}.mp4").read_bytes())
    data[-5] ^= 1
    (tree.videos / f"{FIRST}.mp4").write_bytes(data)


def touched(tree: Tree) -> None:
    for file in (*tree.videos.iterdir(), *tree.aus.rglob("*.*")):
        os.utime(file, (1, 1))
    document = json.loads(tree.analysis.read_text())
    tree.analysis.write_text(json.dumps(document, indent=4))


def moved(tree: Tree) -> None:
    tree.aus.parent.rename(tree.aus.parent.with_name("moved"))
    tree.config = replace(tree.config, mer_factory_output=tree.aus.parent.with_name("moved"))


def no_aus_at_hand(tree: Tree) -> None:
    tree.config = replace(tree.config, mer_factory_output=None, fallback="uniform")


@pytest.mark.parametrize("old", [False, True], ids=["", "old"])
@pytest.mark.parametrize(
    ("change", "stale", "reason"),
    [
        (au_changed, FIRST, r"frames \[.*\] then, \[.*\] now"),
        (lambda tree: tree.analysis.unlink(), FIRST, "frames"),
        (au_added, THIRD, "frames"),
        (
            lambda tree: write_clip(tree.videos / f"{FIRST}.mp4", frames=30),
            FIRST,
            r"another video: [\d,]+ bytes, [\d,]+ then",
        ),
        (video_of_the_same_size, FIRST, r"another video, of the same [\d,]+ bytes"),
        (touched, None, ""),
        (moved, None, ""),
        (no_aus_at_hand, None, ""),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_stale_is_seen_by_all_and_made_again_alone(
    change: Change, stale: str | None, reason: str, old: bool, tree: Tree
) -> None:
    if old:
        tree.forget("files", "rule", "crc32")
    change(tree)
    if old and "video" in reason:
        stale = None  # nothing tells what the video was
    found = tree.stale()
    assert list(found) == [stale] * (stale is not None)
    assert stale is None or re.fullmatch(f"{reason}.*", found[stale])
    (planned,) = plan(tree.config)
    assert (planned.stale, planned.done) == (len(found), 3)

    before = tree.state()
    report = gpupeak.extract(tree.config)
    (tally,) = report.datasets
    assert (tally.saved, tally.skipped, tally.stale) == (0, 3, len(found))
    assert any("1 finished sample is stale" in notice for notice in report.notices) is (stale is not None)
    assert tree.state() == before
    (tally,) = gpupeak.extract(replace(tree.config, refresh=True)).datasets
    assert (tally.saved, tally.skipped) == (len(found), 3 - len(found))
    assert {name for name, state in tree.state().items() if state != before[name]} == set(found)
    assert tree.look().ok
    assert [line["sample"] for line in read_manifest(tree.home)] == [FIRST, SECOND, THIRD]


def test_other_settings_are_another_directory_or_refused(tree: Tree) -> None:
    (fewer,) = verify(replace(tree.config, n_frms=4))
    assert fewer.counts["missing"] == 3
    tree.config = replace(tree.config, fallback="middle")
    assert "made with --fallback uniform, this run has --fallback middle" in tree.look().problems[0]
    (tree.home / "run.json").write_text("{")
    assert "run.json: cannot be read" in tree.look().problems[0]
    (tree.home / "run.json").unlink()
    assert list(tree.stale()) == [THIRD], "of the three, it alone would get other frames by that rule"


def test_what_cannot_be_made_again_stays_stale(tree: Tree) -> None:
    (tree.videos / f"{FIRST}.mp4").write_bytes(b"no video")
    report = gpupeak.extract(replace(tree.config, refresh=True))
    assert report.exit_code == 1
    assert list(tree.stale()) == [FIRST]
    with (tree.home / "manifest.jsonl").open("a") as manifest:  # as a run leaves it that is killed at this moment
        manifest.write(json.dumps({"sample": FIRST, "outcome": "failed", "stage": "plan", "reason": "no video"}) + "\n")
    assert tree.stale() == {FIRST: "extracting it again failed: plan: no video"}
    (tree.home / f"{SECOND}.npy").unlink()
    gpupeak.extract(tree.config)
    assert tree.stale() == {FIRST: "extracting it again failed: plan: no video"}, "also after a run over others"


def test_a_refresh_that_is_cut_short_leaves_the_rest_stale(tree: Tree) -> None:
    au_changed(tree)
    au_added(tree)
    stop = threading.Event()

    class Stopping(Observer):
        def notice(self, text: str) -> None:
            if "on the CPU" in text:  # the line is built, and nothing has been decoded
                stop.set()

    report = gpupeak.extract(replace(tree.config, refresh=True), Stopping(), stop)
    assert report.interrupted
    assert set(tree.stale()) == {FIRST, THIRD}
    assert repair(tree.config, [tree.look()]).exit_code == 0
    assert tree.stale() == {}


def test_the_commands(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    au_changed(tree)
    given = words(tree.config)
    assert main(["verify", *given]) == 1
    out, _ = capsys.readouterr()
    assert "mer2023, stale: 1" in out and f"  {FIRST}: frames [" in out
    assert main(["plan", *given]) == 0
    assert "--refresh extracts again" in "".join(capsys.readouterr())
    assert main(["extract", *given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stale"] == 1
    assert main(["verify", *given, "--fix", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fixed"]["saved"] == 1
    (tree.videos / f"{FIRST}.mp4").unlink()
    assert main(["plan", *given]) == 0
    assert f"warning: mer2023: of 1 finished sample the video is gone: {FIRST}\n" in capsys.readouterr().out
