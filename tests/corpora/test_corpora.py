"""From what a user asks for to samples: the table, a user's own corpora, configuration files, the refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpupeak.config import ExtractConfig
from gpupeak.corpora.corpus import Corpus, resolve
from gpupeak.corpora.peaks import require_peaks
from gpupeak.corpora.samples import Listing, list_samples
from gpupeak.corpora.table import read_table
from gpupeak.errors import AuError, LabelError
from gpupeak.types import Failed, Sample, SamplingRule

NINE = ["cmumosei", "cmumosi", "iemocap", "meld", "mer2023", "mer2024", "ovmerdplus", "sims", "simsv2"]
TARGET = Path("/features")
PEAK = {"au_info": {"total_frames": 9, "peak_frames": [{"peak_index": 4}]}}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, text: str) -> Path:
    touch(path)
    path.write_text(text, encoding="utf-8")
    return path


def npz(path: Path, **names: list[str]) -> Path:
    touch(path)
    arrays: dict[str, Any] = {
        key: np.array({name: {"emo": 0} for name in listed}, dtype=object) for key, listed in names.items()
    }
    np.savez(path, **arrays)
    return path


def mer2023(root: Path, names: list[str], train: list[str] | None = None) -> Path:
    """A small mer2023; returns the directory of its videos."""
    npz(root / "mer2023-dataset-process/label-6way.npz", test1_corpus=names, train_corpus=train or ["train_1"])
    videos = root / "mer2023-dataset-process/video"
    touch(*(videos / f"{name}.mp4" for name in names))
    return videos


def one(**settings: Any) -> Corpus:
    (corpus,) = resolve(ExtractConfig(**settings))
    return corpus


def names(listing: Listing) -> list[str]:
    return [entry.name if isinstance(entry, Sample) else entry.sample.name for entry in listing.samples]


def videos(listing: Listing) -> dict[str, str | None]:
    return {s.name: s.video.name if s.video else None for s in listing.samples if isinstance(s, Sample)}


def refused(**settings: Any) -> str:
    with pytest.raises(LabelError) as caught:
        resolve(ExtractConfig(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


TABLE = [
    ("mer2023", "MER2023", 411, "mer2023-dataset-process", "label-6way.npz", "test1_corpus", "video"),
    ("iemocap", "IEMOCAPFour", 1241, "iemocap-process", "label_4way.npz", "whole_corpus", "subvideo-tgt"),
    ("mercaptionplus", "MERCaptionPlus", None, "mer2025-dataset", "track2_train_mercaptionplus.csv", "name", "video"),
    ("mer2026track1", "mer2026track1", 9395, "mer2026-dataset", "track1_train.csv", "name", "video"),
]


class TestTable:
    @pytest.mark.parametrize("row", TABLE)
    def test_where_everything_lies(self, tmp_path: Path, row: tuple[str, str, int | None, str, str, str, str]) -> None:
        name, consumer, expected, home, labels, key, directory = row
        touch(tmp_path / home / labels)
        (tmp_path / home / directory).mkdir()
        settings: dict[str, Any] = {"dataset_root": tmp_path, "mer_factory_output": Path("/aus")}
        corpus = one(datasets=(name,), **settings)
        assert corpus == one(datasets=(consumer,), **settings) == one(datasets=(name.upper(), consumer), **settings)
        assert (corpus.name, corpus.expected, corpus.keys) == (name, expected, (key,))
        assert (corpus.labels, corpus.videos) == (tmp_path / home / labels, tmp_path / home / directory)
        assert corpus.au_dirs == tuple(dict.fromkeys(map(Path, (f"/aus/{consumer}", f"/aus/{name}", "/aus"))))
        assert corpus.rule == SamplingRule("emotion_peak", 8, "uniform", "auto", 0)
        assert not corpus.fallback_given

    def test_the_nine_by_default(self, tmp_path: Path) -> None:
        for entry in map(read_table(None).entries.__getitem__, NINE):
            touch(tmp_path / str(entry.labels), tmp_path / str(entry.videos) / "a.mp4")
        assert [corpus.name for corpus in resolve(ExtractConfig(dataset_root=tmp_path))] == NINE

    def test_only_some_of_the_nine_are_there(self, tmp_path: Path) -> None:
        mer2023(tmp_path, ["a"])
        npz(tmp_path / "sims-process/label.npz", test_corpus=["a"])
        npz(tmp_path / "meld-process/label.npz", test_corpus=["a"])
        (tmp_path / "meld-process/subvideo").mkdir()
        line = refused(dataset_root=tmp_path)
        assert line.startswith("cmumosei, cmumosi, iemocap, mer2024, ovmerdplus, sims, simsv2: not there")
        assert line.endswith(f"gpupeak extract meld mer2023 --dataset-root {tmp_path}")
        with pytest.raises(LabelError, match="for the others: gpupeak verify meld mer2023"):
            resolve(ExtractConfig(dataset_root=tmp_path), command="verify")
        line = refused(dataset_root=tmp_path / "meld-process")
        assert str(tmp_path / "meld-process/cmumosei-process/label.npz") in line
        assert "--dataset-root" in line

    def test_a_named_dataset_that_is_not_there(self, tmp_path: Path) -> None:
        videos = mer2023(tmp_path, ["a"])
        assert f"sims: {tmp_path}/sims-process/label.npz is not there" in refused(
            dataset_root=tmp_path, datasets=("mer2023", "sims")
        )
        (videos / "a.mp4").unlink()
        videos.rmdir()
        assert f"mer2023: {videos} is not there" in refused(dataset_root=tmp_path, datasets=("mer2023",))

    def test_relative_roots_and_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mer2023(tmp_path / "data", ["a"])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert videos(list_samples(one(datasets=("mer2023",), dataset_root=Path("data")), TARGET)) == {"a": "a.mp4"}
        home = one(datasets=("mer2023",), dataset_root=Path("~/data"), mer_factory_output=Path("~/aus"))
        assert home.labels == tmp_path / "data/mer2023-dataset-process/label-6way.npz"
        assert home.au_dirs[2] == tmp_path / "aus"


class TestSplits:
    def names(self, root: Path, dataset: str, split: str) -> list[str]:
        return names(list_samples(one(datasets=(dataset,), dataset_root=root, split=split), TARGET))

    def test_two_keys(self, tmp_path: Path) -> None:
        mer2023(tmp_path, ["b", "a"], train=["c"])
        assert self.names(tmp_path, "mer2023", "test") == ["b", "a"]
        assert self.names(tmp_path, "mer2023", "train") == ["c"]
        assert self.names(tmp_path, "mer2023", "all") == ["b", "a", "c"]

    def test_one_key_and_a_prefix(self, tmp_path: Path) -> None:
        everything = ["Ses01F_impro01_F000", "Ses05F_impro01_F000", "Ses04M_script", "Ses05M_script"]
        npz(tmp_path / "iemocap-process/label_4way.npz", whole_corpus=everything)
        touch(*(tmp_path / f"iemocap-process/subvideo-tgt/{name}.avi" for name in everything))
        assert self.names(tmp_path, "iemocap", "test") == everything[1::2]
        assert self.names(tmp_path, "iemocap", "train") == everything[::2]
        assert self.names(tmp_path, "iemocap", "all") == everything

    def test_a_list_without_splits_is_all_of_them(self, tmp_path: Path) -> None:
        write(tmp_path / "mer2025-dataset/track2_train_mercaptionplus.csv", "name,reason\na,x\nb,y\na,z\na,z\n")
        (tmp_path / "mer2025-dataset/video").mkdir()
        for split in ("test", "train", "all"):
            assert self.names(tmp_path, "mercaptionplus", split) == ["a", "b"]
        listing = list_samples(one(datasets=("mercaptionplus",), dataset_root=tmp_path), TARGET)
        assert len(listing.warnings) == 1
        assert listing.warnings[0].startswith("mercaptionplus: 2 names listed again in track2")
        assert listing.warnings[0].endswith(" and taken once: a, a")


class TestListing:
    def test_a_sample(self, tmp_path: Path) -> None:
        directory = mer2023(tmp_path, ["sample_1"])
        (tmp_path / "aus/MER2023").mkdir(parents=True)
        corpus = one(datasets=("mer2023",), dataset_root=tmp_path, mer_factory_output=tmp_path / "aus")
        (sample,) = list_samples(corpus, TARGET).samples
        au_dirs = (tmp_path / "aus/MER2023", tmp_path / "aus")
        assert sample == Sample(
            "mer2023", "sample_1", directory / "sample_1.mp4", au_dirs, SamplingRule(), TARGET / "sample_1.npy"
        )

    def test_extensions_in_order_and_exact_before_capitals(self, tmp_path: Path) -> None:
        directory = mer2023(tmp_path, ["a", "b", "c", "d", "e", "f", "g"])
        for file in directory.iterdir():
            file.unlink()
        files = ["a.mkv", "a.avi", "b.mov", "b.MP4", "c.AVI", "d.txt", "e.mp4.part", "f", "other.mp4"]
        touch(*(directory / name for name in files))
        (directory / "g.mp4").mkdir()
        (directory / "d.mp4").symlink_to(directory / "d.mp4")
        listing = list_samples(one(datasets=("mer2023",), dataset_root=tmp_path, limit=7), TARGET)
        expected = {"a": "a.avi", "b": "b.mov", "c": "c.AVI", "d": None, "e": None, "f": None, "g": None}
        assert videos(listing) == expected
        assert listing.warnings == []

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("../x", "the name holds a path separator"),
            ("a\\b", "the name holds a path separator"),
            ("..", "the name is '..'"),
            (".", "the name is '.'"),
            ("", "the name is ''"),
            ("a\nb", "the name holds a control character"),
            ("a\u2028b", "the name holds a control character"),
            ("\ud800", "the name is not valid Unicode"),
            ("x" * 252, "the name takes 256 bytes with .npy, a file name at most 255"),
            ("片" * 84, "the name takes 256 bytes with .npy, a file name at most 255"),
        ],
    )
    def test_a_name_that_cannot_be_a_files(self, tmp_path: Path, name: str, reason: str) -> None:
        (tmp_path / "videos").mkdir()
        write(tmp_path / "list.json", json.dumps([name, "good"]))
        listing = list_samples(one(videos=tmp_path / "videos", name="own", samples=tmp_path / "list.json"), TARGET)
        bad, good = listing.samples
        assert bad == Failed(Sample("own", name, None, (), SamplingRule(), TARGET), "find", reason)
        assert isinstance(good, Sample)

    def test_another_count_than_expected_is_a_warning(self, tmp_path: Path) -> None:
        mer2023(tmp_path, ["a", "b"])
        settings = {"datasets": ("mer2023",), "dataset_root": tmp_path}
        assert list_samples(one(**settings), TARGET).warnings == ["mer2023: 2 samples listed, expected 411"]
        for few in ({"limit": 1}, {"split": "all"}, {"samples": write(tmp_path / "few.txt", "a")}):
            assert list_samples(one(**settings, **few), TARGET).warnings == []

    def test_samples_restrict_a_dataset_in_its_own_order(self, tmp_path: Path) -> None:
        mer2023(tmp_path, ["c", "b", "a"], train=["t"])
        few = write(tmp_path / "few.txt", "a.mp4\nt\nu\nv\nw\nc\n")
        listing = list_samples(one(datasets=("mer2023",), dataset_root=tmp_path, samples=few), TARGET)
        assert names(listing) == ["c", "a"]
        assert listing.warnings == [f"mer2023: 4 names of {few} not in label-6way.npz: t, u, v, ..."]


class TestOwnCorpus:
    def test_names_from_the_files(self, tmp_path: Path) -> None:
        videos_ = ["b.webm", "a.mp4", "片段.MKV", "a b.avi", "-c.ts"]
        touch(*(tmp_path / name for name in [*videos_, ".hidden.mp4", "notes.txt", "d.npy"]))
        (tmp_path / "e.mp4").mkdir()
        corpus = one(videos=tmp_path, name="own", aus=Path("/aus"))
        assert (corpus.au_dirs, corpus.expected, corpus.labels) == ((Path("/aus"),), None, None)
        listing = list_samples(corpus, TARGET)
        assert videos(listing) == {Path(name).stem: name for name in videos_}
        assert names(listing) == sorted(names(listing))

    def test_two_files_of_one_name(self, tmp_path: Path) -> None:
        touch(*(tmp_path / name for name in ["a.mkv", "a.mp4", "a.AVI", "b.mp4"]))
        listing = list_samples(one(videos=tmp_path, name="own"), TARGET)
        assert videos(listing) == {"a": "a.mp4", "b": "b.mp4"}
        assert listing.warnings == ["own: 2 files left out, another has the same name: a.AVI, a.mkv"]

    def test_one_video(self, tmp_path: Path) -> None:
        touch(tmp_path / "my clip.MP4", tmp_path / "other.mp4")
        listing = list_samples(one(videos=tmp_path / "my clip.MP4", name="own"), TARGET)
        assert videos(listing) == {"my clip": "my clip.MP4"}
        (sample,) = listing.samples
        assert isinstance(sample, Sample) and sample.video == tmp_path / "my clip.MP4"

    def test_a_list_with_and_without_extensions(self, tmp_path: Path) -> None:
        touch(*(tmp_path / "videos" / name for name in ["a.mp4", "a.avi", "b.mov", "c.webm", "d.MP4"]))
        samples = write(tmp_path / "list.csv", "name,label\na.avi,0\nb,1\nc.webm,0\nd.mp4,1\ne.mp4,0\n")
        listing = list_samples(one(videos=tmp_path / "videos", name="own", samples=samples), TARGET)
        assert videos(listing) == {"a": "a.avi", "b": "b.mov", "c": "c.webm", "d": "d.MP4", "e": None}
        assert listing.warnings == []


class TestConfigurationFile:
    TOML = """
        dataset_root = "ROOT"
        mer_factory_output = "/aus"
        n_frms = 6
        sampling = "headtail"

        [datasets.MER2023]
        sampling = "uniform"
        fallback = "middle"
        videos = "elsewhere"

        [datasets.mine]
        videos = "mine/clips"
        labels = "mine/list.json"
        key = "test"
        aus = "mine"
        expected = 3
        n_frms = 4
    """

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        mer2023(tmp_path, ["a"])
        touch(tmp_path / "elsewhere/a.avi", tmp_path / "mine/clips/b.mp4")
        write(tmp_path / "mine/list.json", '{"test": ["b", "c"]}')
        return write(tmp_path / "my.toml", self.TOML.replace("ROOT", str(tmp_path)))

    def test_it_overrides_the_table(self, tmp_path: Path, file: Path) -> None:
        corpus = one(datasets=("mer2023",), config_file=file)
        assert corpus.rule == SamplingRule("uniform", 6, "middle")
        assert corpus.fallback_given
        assert (corpus.videos, corpus.expected, corpus.keys) == (tmp_path / "elsewhere", 411, ("test1_corpus",))
        assert corpus.au_dirs == (Path("/aus/MER2023"), Path("/aus/mer2023"), Path("/aus"))

    def test_it_adds_to_the_table(self, file: Path) -> None:
        corpus = one(datasets=("Mine",), config_file=file)
        assert corpus.rule == SamplingRule("headtail", 4)
        assert not corpus.fallback_given
        assert corpus.au_dirs == (Path("/aus/mine"),)
        listing = list_samples(corpus, TARGET)
        assert videos(listing) == {"b": "b.mp4", "c": None}
        assert listing.warnings == ["mine: 2 samples listed, expected 3"]

    def test_the_command_line_comes_first(self, tmp_path: Path, file: Path) -> None:
        options = {"sampling": "emotion_peak", "n_frms": 8, "fallback": "fail", "seed": 7, "peak_source": "openface"}
        corpus = one(datasets=("mer2023",), config_file=file, **options)
        assert corpus.rule == SamplingRule("emotion_peak", 8, "fail", "openface", 7)
        assert one(datasets=("mine",), config_file=file, n_frms=8).rule == SamplingRule("headtail", 8)
        line = refused(datasets=("mer2023",), config_file=file, dataset_root=tmp_path / "mine")
        assert str(tmp_path / "mine/mer2023-dataset-process") in line
        assert one(datasets=("mine",), config_file=file, mer_factory_output=Path("/b")).au_dirs == (Path("/b/mine"),)

    def test_what_it_adds_is_taken_with_the_nine(self, file: Path) -> None:
        line = refused(config_file=file)
        assert "gpupeak extract mer2023 mine --dataset-root /" in line and line.endswith(f" --config {file}")

    def test_other_labels_have_other_keys_and_another_count(self, tmp_path: Path) -> None:
        mer2023(tmp_path, ["a"])
        write(tmp_path / "few.txt", "a\n")
        file = write(tmp_path / "my.toml", '[datasets.mer2023]\nlabels = "few.txt"')
        corpus = one(datasets=("mer2023",), dataset_root=tmp_path, config_file=file)
        assert (corpus.keys, corpus.expected) == ((None,), None)
        assert list_samples(corpus, TARGET).warnings == []

    def test_without_a_list_every_video_is_taken(self, tmp_path: Path) -> None:
        touch(tmp_path / "clips/a.mp4")
        file = write(tmp_path / "my.toml", '[datasets.mine]\nvideos = "clips"\naus = "aus"')
        corpus = one(datasets=("mine",), dataset_root=tmp_path, config_file=file)
        assert corpus.au_dirs == (tmp_path / "aus",)
        assert names(list_samples(corpus, TARGET)) == ["a"]


class TestRequirePeaks:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        mer2023(tmp_path, ["a", "b", "c"])
        return tmp_path

    def check(self, root: Path, aus: Path | None = None, **settings: Any) -> None:
        corpus = one(datasets=("mer2023",), dataset_root=root, mer_factory_output=aus, **settings)
        require_peaks(corpus, list_samples(corpus, TARGET).samples, ExtractConfig())

    def refused(self, root: Path, aus: Path | None = None, **settings: Any) -> str:
        with pytest.raises(AuError) as caught:
            self.check(root, aus, **settings)
        line = str(caught.value)
        assert "\n" not in line
        assert line.startswith("mer2023: ")
        assert "--fallback uniform" in line
        return line

    def test_one_usable_peak_is_enough(self, root: Path) -> None:
        aus = root / "aus"
        write(aus / "MER2023/c/c_au_analysis.json", json.dumps(PEAK))
        write(aus / "b/b_au_analysis.json", "{")
        self.check(root, aus)
        assert "no usable peak in any of 3 samples" in self.refused(root, aus, peak_source="openface")
        line = self.refused(root, aus, limit=2)
        assert "no usable peak in any of 2 samples" in line
        assert f"{aus}/MER2023, {aus}/mer2023, {aus}" in line
        for reason in ("AU file unreadable: 1", "no AU file: 1"):
            assert reason in line

    @pytest.mark.parametrize("settings", [{"fallback": "uniform"}, {"fallback": "fail"}, {"sampling": "uniform"}])
    def test_not_where_no_peak_is_needed(self, root: Path, settings: dict[str, str]) -> None:
        self.check(root, root / "typo", **settings)
