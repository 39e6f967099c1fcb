"""Does `config check` say what AffectGPT would do? Held against a small AffectGPT, and over its users' mistakes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import write_features

from gpupeak.check import affectgpt as consumer
from gpupeak.check.affectgpt import Check, check, emit
from gpupeak.cli.app import main
from gpupeak.corpora import table
from gpupeak.errors import ConfigError

SAMPLES = ("sample_1", "sample_2")
ROOT = "./preextracted_features"
HERE = "preextracted_features/mer2023/frame_CLIP_VIT_LARGE_emotion_peak_8frms"
WHOLE: dict[str, Any] = {
    "run": {"task": "video_text_pretrain"},
    "model": {"vis_processor": {"train": {"n_frms": 8}}},
    "datasets": {"mercaptionplus": {"face_or_frame": "multiface_audio_face_frame_text"}},
    "inference": {"frame_sampling": "emotion_peak"},
}


Section: TypeAlias = Mapping[str, Any]


def affectgpt_finds(
    config: Section, section: Section, name: str, run_dir: Path, root: str | None, faces: bool = False
) -> bool:
    """Whether the file of `SAMPLES[0]` that a section asks for is there; `root` is what its root is by default."""
    if not (root := section.get("preextracted_root", root)):
        return False
    lower, normal = {"IEMOCAPFour": "iemocap"}.get(name, name.lower()), os.path.normpath(root)
    home = Path(normal) if Path(normal).name == lower else Path(root) / lower
    encoder, n = section.get("visual_encoder", "CLIP_VIT_LARGE"), config["model"]["vis_processor"]["train"]["n_frms"]
    sampling = section.get("frame_sampling", "uniform")
    frames = f"frame_{encoder}_{sampling}_{section.get('frame_n_frms', n)}frms"
    return (run_dir / home / (f"face_{encoder}_{n}frms" if faces else frames) / f"{SAMPLES[0]}.npy").exists()


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """AffectGPT counts as many samples in every dataset as are written here; in its training sets nobody does."""
    numbers = {name: count and len(SAMPLES) for name, count in table.expected_samples().items()}
    monkeypatch.setattr(consumer, "expected_samples", lambda: numbers)


def merged(changes: Mapping[str, Any]) -> dict[str, Any]:
    """`WHOLE` with dotted keys set, or taken out where the value is `...`."""
    config: dict[str, Any] = json.loads(json.dumps(WHOLE))
    for path, value in changes.items():
        *sections, key = path.split(".")
        at = config
        for section in sections:
            at = at.setdefault(section, {})
        at.pop(key, None)
        if value is not ...:
            at[key] = value
    return config


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory to run AffectGPT in, with the features of two samples of mer2023."""
    write_features(tmp_path / HERE, *SAMPLES)
    return tmp_path


def judge(tree: Path, config: Mapping[str, Any], names: Sequence[str] = ("mer2023",), **given: Any) -> Check:
    file = tree / "affectgpt.yaml"
    file.write_text(yaml.safe_dump(dict(config)))
    return check(file, names, run_dir=tree, **given)


def told(found: Check) -> str:
    parts = [text for judgement in found.judgements for text in (*judgement.problems, *judgement.warnings)]
    instead = [judgement.instead for judgement in found.judgements if not judgement.loads]
    return "\n".join([*parts, *instead, *found.no_effect, *found.warnings])


@pytest.mark.parametrize(
    ("changes", "loads", "says"),
    [
        ({}, True, ""),
        ({"model.vis_processor.train.n_frms": ...}, False, "frame_n_frms is not set, nor is its default"),
        ({"inference.preextracted_root": ""}, False, "no file is looked for"),
        ({"datasets.mercaptionplus.face_or_frame": "multiface_audio_face_text"}, False, "without frame in it"),
        ({"datasets.ovmerd.face_or_frame": "face"}, False, "AffectGPT takes only one"),
        ({"datasets.mercaptionplus": ...}, True, "has to be given --outside_face_or_frame"),
        ({"inference.use_preextracted_frame": False}, True, "inference.use_preextracted_frame: not read there"),
        ({"inference.frame_sampling": "uniform", "inference.use_preextracted_features": True}, False, "nowhere"),
        ({"model": ...}, False, "no section model"),
        ({"model.visual_encoder": "SigLIP_SO"}, True, "SigLIP_SO, of 1152 numbers a frame, and CLIP_VIT_LARGE has 768"),
        ({"inference.visual_encoder": "DINO2_LARGE"}, False, "no frame_DINO2_LARGE_emotion_peak_8frms"),
        ({"inference.use_preextracted_face": True}, False, "no face_CLIP_VIT_LARGE_8frms"),
        ({"inference.use_preextracted_face": False}, True, ""),
    ],
)
def test_inference_loads_what_it_would(tree: Path, changes: dict[str, Any], loads: bool, says: str) -> None:
    found = judge(tree, merged(changes))
    assert found.exit_code == (0 if loads else 1), told(found)
    assert says in told(found)
    assert all(judgement.loads for judgement in found.judgements) is loads


VALUES: dict[str, list[Any]] = {
    "inference.frame_sampling": [..., "emotion_peak", "emotion_peak", "uniform", "headtail"],
    "inference.frame_n_frms": [..., 8, 16, "8"],
    "inference.visual_encoder": [..., "CLIP_VIT_LARGE", "SigLIP"],
    "inference.preextracted_root": [
        *(..., "./preextracted_features", "preextracted_features/", "preextracted_features/mer2023/."),
        *("./preextracted_features/meld", "elsewhere/iemocap", "elsewhere", "", None, "{here}/preextracted_features"),
    ],
    "inference.use_preextracted_features": [..., True, False],
    "inference.use_preextracted_frame": [..., True, False],
    "inference.use_preextracted_face": [..., True, False],
    "model.vis_processor.train.n_frms": [8, 16],
    "datasets.mercaptionplus.face_or_frame": ["multiface_audio_face_frame_text", "frame", "face", "audio_text"],
    "datasets.mercaptionplus.use_preextracted_frame": [..., True, False],
    "datasets.mercaptionplus.use_preextracted_face": [..., True, False],
    "datasets.mercaptionplus.frame_sampling": [..., "emotion_peak", "uniform"],
    "datasets.mercaptionplus.preextracted_root": [
        *(..., None, "./preextracted_features", "preextracted_features/mercaptionplus"),
    ],
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("run")
    for dataset, sampling, n in (
        *(("mer2023", "emotion_peak", 8), ("mer2023", "uniform", 8), ("meld", "emotion_peak", 16)),
        *(("iemocap", "emotion_peak", 8), ("mercaptionplus", "uniform", 8), ("mercaptionplus", "emotion_peak", 16)),
    ):
        root = home / ("elsewhere" if dataset == "iemocap" else ROOT)
        write_features(root / dataset / f"frame_CLIP_VIT_LARGE_{sampling}_{n}frms", *SAMPLES, shape=(n, 768))
        write_features(root / dataset / f"face_CLIP_VIT_LARGE_{n}frms", *SAMPLES, shape=(n, 768))
    return home


@settings(max_examples=80, deadline=None)
@given(
    changes=st.fixed_dictionaries({key: st.sampled_from(values) for key, values in VALUES.items()}),
    name=st.sampled_from(["MER2023", "MELD", "IEMOCAPFour"]),
    outside=st.sampled_from([None, None, "frame", "face"]),
)
def test_the_answer_is_affectgpts(many: Path, changes: dict[str, Any], name: str, outside: str | None) -> None:
    changes = {k: v.format(here=many) if isinstance(v, str) else v for k, v in changes.items()}
    config = merged(changes)
    found = judge(many, config, [name], face_or_frame=outside)
    section, inference = config["datasets"]["mercaptionplus"], config["inference"]
    needed = outside or section["face_or_frame"]
    loads = "frame" in needed and inference.get("frame_sampling") == "emotion_peak"
    loads &= affectgpt_finds(config, inference, name, many, ROOT)
    if inference.get("use_preextracted_face"):
        loads &= "face" in needed and affectgpt_finds(config, inference, name, many, ROOT, faces=True)
    assert found.exit_code == (0 if loads else 1), told(found)
    training = judge(many, config, ["mercaptionplus"], face_or_frame=outside).judgements
    own, needed = (config, section, "mercaptionplus", many, None), section["face_or_frame"]
    frames = section.get("use_preextracted_frame") and "frame" in needed and affectgpt_finds(*own)
    expected = [bool(frames)] if len(section) > 1 else []
    if section.get("use_preextracted_face"):
        expected.append("face" in needed and affectgpt_finds(*own, faces=True))
    assert [judgement.loads for judgement in training if judgement.use == "training"] == expected


FOUND = ["inference meld", "inference mer2023"]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, FOUND),
        ({"inference.preextracted_root": "preextracted_features/meld"}, ["inference meld"]),
        ({"inference.preextracted_root": "nowhere"}, [f"inference {name}" for name in table.default_datasets()]),
        ({"datasets.sims.use_preextracted_features": True}, [*FOUND, "inference sims", "training sims"]),
        ({"datasets.mercaptionplus.use_preextracted_frame": True}, [*FOUND, "training mercaptionplus"]),
    ],
)
def test_without_names_it_is_what_is_there_or_told(tree: Path, changes: dict[str, Any], names: list[str]) -> None:
    write_features(tree / HERE.replace("mer2023", "meld"), *SAMPLES)
    found = judge(tree, merged(changes), ())
    assert [f"{judgement.use} {judgement.dataset}" for judgement in found.judgements] == names


def test_what_the_files_have_to_say(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "expected_samples", table.expected_samples)
    directory = tree / HERE
    write_features(directory, *(f"sample_{number}" for number in range(411)))
    assert told(judge(tree, WHOLE)) == ""
    assert judge(tree, WHOLE).judgements[0].files == 411

    (directory / "sample_7.npy").write_bytes(b"torn")
    write_features(directory, "sample_9", shape=(4, 768))
    found = judge(tree, WHOLE)
    assert "2 files not of whole float32 [8, 768]: sample_7, sample_9" in told(found)
    assert found.exit_code == 1
    write_features(directory, "sample_7", "sample_9")

    lines = [("sample_1", "saved"), ("a_failed", "failed"), ("sample_2", "failed"), ("sample_3", "kept")]
    manifest = [json.dumps({"sample": sample, "outcome": outcome}) for sample, outcome in lines]
    (directory / "manifest.jsonl").write_text("\n".join(manifest) + "\n")
    found = judge(tree, WHOLE)
    assert found.exit_code == 0
    assert told(found) == "1 sample of manifest.jsonl without a file: a_failed"
    (directory / "run.json").write_text('{"settings": {"weights": "random:0"}}')
    assert "weights random:0: these features mean nothing" in told(judge(tree, WHOLE))
    renamed = {"encoder": "CLIP_VIT_LARGE", "sampling": "uniform", "n_frms": 8}
    (directory / "run.json").write_text(json.dumps({"settings": renamed}))
    assert "by their run.json, these features are those of frame_CLIP_VIT_LARGE_uniform_8frms" in told(
        judge(tree, WHOLE)
    )
    own = merged({"inference.visual_encoder": "ViT"})
    shutil.copytree(directory, tree / HERE.replace("CLIP_VIT_LARGE", "ViT"))
    assert "not of whole float32" not in told(judge(tree, own)), "of an encoder that nobody knows"
    renamed["encoder"] = "open_clip:ViT-B-32"
    (tree / HERE.replace("CLIP_VIT_LARGE", "ViT") / "run.json").write_text(json.dumps({"settings": renamed}))
    assert "411 files not of whole float32 [8, 512]" in told(judge(tree, own))


def test_more_files_than_affectgpt_counts_are_odd(tree: Path) -> None:
    write_features(tree / HERE, "a")
    found = judge(tree, WHOLE)
    assert (found.exit_code, told(found)) == (0, "3 files, AffectGPT counts 2 samples and asks for no more")


def test_where_nobody_knows_the_number_only_what_failed_is_missed(tree: Path) -> None:
    directory = tree / HERE.replace("mer2023", "mine")
    write_features(directory, *SAMPLES)
    assert judge(tree, WHOLE, ["mine"]).exit_code == 0, "a part of a dataset, for all that is known"
    (directory / "manifest.jsonl").write_text('{"sample": "broken", "outcome": "failed"}\n')
    found = judge(tree, WHOLE, ["mine"])
    assert (found.exit_code, found.judgements[0].partly) == (1, True)
    assert told(found).startswith("1 sample of manifest.jsonl without a file: broken\n")


def test_every_dataset_asked_for_has_to_be_loaded(tree: Path) -> None:
    found = judge(tree, WHOLE, ["MER2023", "IEMOCAPFour"])
    assert [(each.dataset, each.loads) for each in found.judgements] == [("mer2023", True), ("iemocap", False)]
    assert found.exit_code == 1


GUIDE = """
datasets:
  mer2023:
    face_or_frame: 'frame'
    frame_sampling: 'emotion_peak'
    use_preextracted_features: True
    preextracted_root: './preextracted_features/mer2023'
    visual_encoder: 'CLIP_VIT_LARGE'
    frame_n_frms: 8
"""


def test_the_guides_older_form_switches_nothing_on(tree: Path) -> None:
    file = tree / "guide.yaml"
    file.write_text(GUIDE)
    (judgement,) = check(file, run_dir=tree).judgements
    assert (judgement.use, judgement.loads, judgement.files) == ("training", False, 2)
    file.write_text(GUIDE + "inference: {frame_sampling: emotion_peak, frame_n_frms: 8}\n")
    found = check(file, ["mer2023"], run_dir=tree)
    assert found.exit_code == 0, "root and encoder are inference's own defaults"
    assert "not read at inference" in told(found)


def test_interpolation_and_options(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tree / "affectgpt.yaml"
    write_features(tree / "moved/mer2023/frame_CLIP_VIT_LARGE_emotion_peak_8frms", *SAMPLES)
    file.write_text("""
place: moved
run: {}
model: {vis_processor: {train: {n_frms: 8}}, sampling: uniform}
datasets: {ovmerd: {face_or_frame: frame, root: moved}}
inference:
  name: mer2023
  frame_sampling: ${model.sampling}
  preextracted_root: ${datasets.ovmerd.root}/${.name}
""")
    assert check(file, ["mer2023"], run_dir=tree).exit_code == 1
    peak = ("inference.frame_sampling=emotion_peak",)
    found = check(file, ["mer2023"], options=peak, run_dir=tree)
    assert found.exit_code == 0
    assert found.judgements[0].directory == "moved/mer2023/frame_CLIP_VIT_LARGE_emotion_peak_8frms"
    monkeypatch.setenv("GPUPEAK_TEST_ROOT", "moved")
    root = "inference.preextracted_root=${oc.env:GPUPEAK_TEST_ROOT}"
    assert check(file, ["mer2023"], options=(*peak, root), run_dir=tree).exit_code == 0
    with pytest.raises(ConfigError, match=r"preextracted_root cannot be resolved"):
        check(file, ["mer2023"], options=(*peak, "inference.preextracted_root=${place}"), run_dir=tree)
    assert check(file, ["mer2023"], options=(*peak, "inference.frame_n_frms=4"), run_dir=tree).exit_code == 1


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("n", "encoder", "directory", "dim"),
    [(8, "DINO2_LARGE", "DINO2_LARGE", 1024), (4, "open_clip:ViT-B-32/openai", "open_clip_ViT-B-32_openai", 512)],
)
@pytest.mark.parametrize("root", ["./a b: c#, '\"\\/中文", "1e3"])
def test_what_is_emitted_passes_the_check(
    tmp_path: Path, training: bool, n: int, encoder: str, directory: str, dim: int, root: str
) -> None:
    for name in ("mer2023", "meld"):
        write_features(tmp_path / root / name / f"frame_{directory}_emotion_peak_{n}frms", *SAMPLES, shape=(n, dim))
        write_features(tmp_path / root / name / f"face_{directory}_{n}frms", *SAMPLES, shape=(n, dim))
    file, datasets = tmp_path / "affectgpt.yaml", ["MER2023", "meld"]
    text = emit(datasets, output_root=root, n_frms=n, encoder=encoder, training=training, faces=training)
    assert f"# A frame of {directory} is {dim} numbers" in text
    file.write_text(f"{text}model: {{vis_processor: {{train: {{n_frms: {n}}}}}, visual_encoder: {directory}}}\n")
    found = check(file, ["mer2023", "meld"], run_dir=tmp_path)
    assert found.exit_code == 0, told(found)
    assert all(judgement.loads for judgement in found.judgements)
    assert len(found.judgements) == (8 if training else 2)
    assert found.no_effect == ()
    assert check(file, run_dir=tmp_path).exit_code == 0


def test_other_widths_are_warned_of_and_training_has_sections(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "emit", "--visual-encoder", "SigLIP_SO"]) == 0
    assert "SigLIP_SO gives 1152 numbers a frame" in capfd.readouterr().err
    for names, sections in ([], {"mercaptionplus", "ovmerd"}), (["mer2023"], {"mer2023"}):
        assert main(["config", "emit", *names, "--training"]) == 0
        assert set(yaml.safe_load(capfd.readouterr().out)["datasets"]) == sections


def test_the_command_tells_of_faces_too_and_in_json(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What it says of frames, `test_docs.py` holds against docs/affectgpt.md."""
    file = tree / "affectgpt.yaml"
    file.write_text(yaml.safe_dump(WHOLE))
    words = ["config", "check", str(file), "--run-dir", str(tree), "--dataset", "MER2023"]
    assert main([*words, "--options", "inference.use_preextracted_face=true"]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert "inference, faces" in lines
    assert ["use_preextracted_face", "True", "inference.use_preextracted_face"] in map(str.split, lines)
    assert "  instead, AffectGPT encodes the faces of openface_face again" in lines
    assert main([*words, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["exit_code"], found["error"]) == (0, None)
    assert [(each["dataset"], each["loads"], each["files"]) for each in found["datasets"]] == [("mer2023", True, 2)]
