"""The face stream: faces that OpenFace cut out are found, resized as OpenCV does, and go down the same line."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from samples import ENCODER, words

import gpupeak
from gpupeak import ExtractConfig
from gpupeak.cli.app import main
from gpupeak.corpora.corpus import resolve
from gpupeak.corpora.samples import list_samples
from gpupeak.decode.faces import face_frames, open_faces
from gpupeak.decode.worker import Planned, prepare
from gpupeak.errors import ConfigError, LabelError, SampleError
from gpupeak.features.packs import FeatureStore
from gpupeak.sampling import uniform
from gpupeak.types import Sample

Faces = npt.NDArray[np.uint8]


def drawn(count: int, height: int = 112, width: int = 112) -> Faces:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


def resized(faces: Faces, *indices: int, swap: bool = False) -> Faces:
    out = np.zeros((len(indices), 224, 224, 3), np.uint8)
    face_frames(faces, indices, out, swap=swap)
    return out


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        ((112, 112), "4328ac4d6e5e24f9"),
        ((224, 224), "35f282953258d896"),
        ((97, 300), "1f01b6b52b778e42"),
        ((500, 333), "d2726aa649bb3191"),
        ((448, 448), "4bbd57ac655c3678"),
        ((1, 1), "eded41f4dd85d170"),
        ((2, 3), "51235dca27b1daed"),
    ],
)
def test_resizing_is_opencvs_to_the_bit(size: tuple[int, int], digest: str) -> None:
    """Digests of `np.stack([cv2.resize(faces[2], (224, 224)), cv2.resize(faces[0], (224, 224))])`, 4.14.0 and 5.0.0."""
    assert hashlib.sha256(resized(drawn(3, *size), 2, 0).tobytes()).hexdigest()[:16] == digest


def test_channels_stay_as_stored_unless_they_are_to_be_swapped() -> None:
    faces = drawn(2, 224, 224)
    assert np.array_equal(resized(faces, 1), faces[[1]])
    assert np.array_equal(resized(faces, 1, swap=True), faces[[1], ..., ::-1])


def refused(path: Path) -> str:
    with pytest.raises(SampleError) as raised:
        open_faces(path)
    assert raised.value.stage == "plan"
    assert "\n" not in raised.value.reason
    return raised.value.reason


def test_what_is_not_a_file_of_faces_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "faces.npy"
    assert refused(path) == "is not a regular file"
    for array in (drawn(2)[..., :2], drawn(2).astype(np.float32), drawn(2)[0], drawn(2)[:0], drawn(1, 1, 20_000)):
        np.save(path, array)
        assert "expected uint8 [faces, height, width, 3]" in refused(path)
    np.save(path, np.array([{}], object))
    assert refused(path) == "is no whole .npy file"
    np.save(path, drawn(2))
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"x" + whole, whole.replace(b"(2, 112", b"(9, 112")):
        path.write_bytes(damaged)
        assert refused(path) == "is no whole .npy file"
    path.write_bytes(b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little"))
    os.truncate(path, 3 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused(path) == "is no whole .npy file"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10  # KiB


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """MER2023's layout, with faces of four of its five samples, and mercaptionplus', whose faces are nested."""
    root = tmp_path / "data"
    for place in ("mer2023-dataset-process/video", "mer2025-dataset/video"):
        (root / place).mkdir(parents=True)
    names = [f"sample_{number:08d}" for number in range(5)]
    labels = np.array({name: {"emo": "happy"} for name in names}, dtype=object)
    np.savez(root / "mer2023-dataset-process/label-6way.npz", train_corpus=labels, test1_corpus=labels)
    (root / "mer2025-dataset/track2_train_mercaptionplus.csv").write_text("name\nnested\n")
    beside = root / "mer2023-dataset-process/openface_face"
    nested = root / "mer2025-dataset/openface_face/nested"
    for directory in (beside, nested):
        directory.mkdir(parents=True)
    for number, name in enumerate(names[:4]):
        np.save(beside / f"{name}.npy", drawn(5 + 9 * number))
    (beside / f"{names[3]}.npy").write_bytes(b"torn")
    np.save(nested / "nested.npy", drawn(20))
    return root


def config(root: Path, **changes: Any) -> ExtractConfig:
    settings: dict[str, Any] = {
        "datasets": ("mer2023",),
        "dataset_root": root,
        "output_root": root / "out",
        "stream": "face",
        "encoder": ENCODER,
        "weights": "random:0",
        "device": "cpu",
        "workers": 1,
        **changes,
    }
    return ExtractConfig(**settings)


def samples(config: ExtractConfig) -> list[Sample]:
    (corpus,) = resolve(config)
    return [entry for entry in list_samples(corpus, Path()).samples if isinstance(entry, Sample)]


def test_faces_are_found_beside_the_videos(root: Path) -> None:
    found = samples(config(root))
    assert [sample.video is not None for sample in found] == [True] * 4 + [False]
    assert found[0].video == root / "mer2023-dataset-process/openface_face/sample_00000000.npy"
    (nested,) = samples(config(root, datasets=("mercaptionplus",)))
    assert nested.video == root / "mer2025-dataset/openface_face/nested/nested.npy"
    own = config(root, datasets=(), videos=root / "mer2023-dataset-process/video", name="own")
    assert [sample.name for sample in samples(own)] == [f"sample_{number:08d}" for number in range(4)]
    (root / "mer2025-dataset/openface_face").rename(root / "elsewhere")
    with pytest.raises(LabelError, match="openface_face is not there"):
        samples(config(root, datasets=("mercaptionplus",)))


def test_faces_are_sampled_uniformly_and_nothing_else_and_not_by_nvdec(root: Path) -> None:
    sample = samples(config(root))[2]
    out = np.zeros((8, 224, 224, 3), np.uint8)
    answer = prepare(sample, out)
    assert isinstance(answer, tuple)
    assert (answer[0].indices, answer[0].frames, answer[0].codec) == (tuple(uniform(23, 8)), 23, "faces")
    assert np.array_equal(out, resized(drawn(23), *uniform(23, 8)))
    prepare(replace(sample, stream="face-rgb"), out)
    assert np.array_equal(out, resized(drawn(23), *uniform(23, 8), swap=True))
    planned = prepare(sample, None)
    assert isinstance(planned, Planned) and planned.given == "faces are no video"
    with pytest.raises(ConfigError, match="expected uniform"):
        config(root, sampling="emotion_peak")
    (root / "own.toml").write_text('sampling = "headtail"\n[datasets.mer2023]\nsampling = "headtail"\n')
    assert samples(config(root, config_file=root / "own.toml"))[0].rule.method == "uniform"


def told_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main([*arguments, "--json"])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == code
    return told


def test_a_run_over_faces(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = gpupeak.extract(config(root))
    assert (report.datasets[0].saved, report.datasets[0].failed) == (3, 2)
    home = root / "out/mer2023/face_open_clip_ViT-S-32-alt_8frms"
    assert json.loads((home / "run.json").read_text())["settings"]["stream"] == "face"
    failures = {(failed.sample.name, failed.stage) for failed in report.datasets[0].failed_first}
    assert failures == {("sample_00000003", "plan"), ("sample_00000004", "find")}
    name = "sample_00000002"
    stored = gpupeak.load_features(root / "out", "mer2023", name, ENCODER, stream="face")
    assert np.array_equal(FeatureStore(root / "out", ENCODER, stream="face")["mer2023"][name], stored)

    given = ["--datasets", *words(config(root))]
    shown = told_by(capsys, "inspect", *given, name, "--show", str(root / "sheet.png"))
    assert (shown["codec"], shown["frames"], shown["times"]) == ("faces", 23, [])
    assert (shown["extracted"]["agrees"], shown["extracted"]["state"]) == (True, "whole, float32 [8, 256]")
    assert (root / "sheet.png").stat().st_size > 100_000
    assert main(["inspect", *given, name]) == 0
    text = capsys.readouterr().out
    assert "picture     faces, 112 x 112\n" in text and "decoding" not in text
    (told,) = told_by(capsys, "report", *given, "--out", str(root / "report.html"))["datasets"]
    assert (told["saved"], told["sheets"]) == (3, 3)

    with pytest.raises(ConfigError, match="stream"):
        gpupeak.extract(config(root, stream="face-rgb"))
