"""What cannot be meant is refused: one line on standard error, one exit code, and the same in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpupeak.cli.app import main

OWN = "--videos videos --name mine"
UNIFORM = f"{OWN} --sampling uniform"
LARGE = "--visual-encoder open_clip:ViT-SO400M-16-SigLIP2-512"
RAY = "extract --engine ray"
USES = [
    # words that no command has
    ("extrat", 2, "No such command 'extrat'. Did you mean 'extract'? (see gpupeak --help)"),
    ("extract --dataset-rot x", 2, "No such option: --dataset-rot (Possible options: --dataset-root"),
    ("extract --limit many", 2, "--limit is 'many', expected a whole number from 1"),
    ("extract --limit", 2, "Option '--limit' requires an argument"),
    ("report --show -1", 2, "Invalid value for '--show'"),
    ("inspect", 2, "Missing argument"),
    ("doctor --seed 1", 2, "No such option: --seed"),
    ("pack --weights x", 2, "No such option: --weights"),
    ("verify --overwrite", 2, "No such option: --overwrite"),
    ("inspect x --engine ray", 2, "No such option: --engine"),
    # values that an option cannot have
    ("extract --n-frms 0", 2, "--n-frms is 0, expected a whole number from 1 to 1,024"),
    ("plan --n-frms 1000000", 2, "--n-frms is 1000000, expected a whole number from 1 to 1,024"),
    ("inspect x --batch-size 5000", 2, "--batch-size is 5000, expected a whole number from 1 to 4,096"),
    ("plan --workers 2000", 2, "--workers is 2000, expected a whole number from 1 to 1,024"),
    (f"verify --limit {10**20}", 2, f"--limit is {10**20}, expected a whole number from 1 to 1,000,000,000"),
    (f"doctor --cache-size {'9' * 400}TB", 2, "--cache-size is '999"),
    (f"{RAY} --actors 10000", 2, "--actors is '10000', expected N or MIN:MAX, from 1 to 9999"),
    ("extract --seed a", 2, "--seed is 'a', expected a whole number"),
    ("extract --time-limit 0", 2, "--time-limit is 0.0, expected a number from 0.001 to 86,400"),
    ("extract --sampling even", 2, "--sampling is 'even', expected one of emotion_peak, uniform, headtail"),
    ("extract --stream faces", 2, "--stream is 'faces', expected one of frame, face, face-rgb"),
    ("extract --fallback none", 2, "--fallback is 'none', expected one of uniform, middle, fail"),
    ("extract --peak-source x", 2, "--peak-source is 'x', expected one of auto, au_info, per_frame, merr_data, "),
    ("extract --split dev", 2, "--split is 'dev', expected one of test, train, all"),
    ("extract --decoder gpu", 2, "--decoder is 'gpu', expected one of auto, nvdec, cpu, hybrid"),
    ("extract --device gpu", 2, "--device is 'gpu', expected auto, cpu or cuda:N, or several: cuda:0,cuda:1"),
    ("extract --device cuda:0,cuda:00", 2, "--device is 'cuda:0,cuda:00', expected every GPU once"),
    ("extract --cache-size much", 2, "--cache-size is 'much', expected bytes (20GB, 512MiB) from 1"),
    ("extract --engine dask", 2, "--engine is 'dask', expected one of ray"),
    (f"{RAY} --actors 0", 2, "--actors is '0', expected N or MIN:MAX, from 1 to 9999"),
    (f"{RAY} --actors 4:2", 2, "--actors is '4:2', expected N or MIN:MAX, from 1 to 9999"),
    (f"{RAY} --gpus-per-actor 2", 2, "--gpus-per-actor is 2.0, expected a number from 0.01 to 1"),
    (f"{RAY} --address ray://head:1", 2, "--address is 'ray://head:1', expected auto, HOST or HOST:PORT, on a"),
    ("extract --visual-encoder CLIP_VIT_HUGE", 2, "--visual-encoder is 'CLIP_VIT_HUGE', expected CLIP_VIT_LARGE, "),
    ("extract --samples s3://", 2, "'s3://' names no place in a store, expected s3://BUCKET/DIRECTORY"),
    # options that do not go together
    ("extract --videos clips", 2, "a corpus of your own takes both --videos and --name"),
    (f"extract meld {OWN}", 2, "--videos describes one corpus of your own; it cannot be joined with meld"),
    ("extract --aus aus", 2, "--aus goes with --videos and --name; for the datasets, use --mer-factory-output"),
    ("extract --stream face --sampling headtail", 2, "--sampling is 'headtail', expected uniform: AffectGPT samples"),
    ("extract --num-shards 4", 2, "--num-shards is 4; --shard-index says which of them, from 0"),
    ("extract --shard-index 1", 2, "--shard-index is 1; --num-shards says of how many"),
    ("extract --num-shards 4 --shard-index 4", 2, "--shard-index is 4, expected 0 to 3"),
    ("extract --num-shards 0 --shard-index 0", 2, "--num-shards is 0, expected a whole number from 1 to 99,999"),
    ("extract --address auto", 2, "--address goes with --engine ray, and there is no engine"),
    ("extract --actors 2", 2, "--actors goes with --engine ray, and there is no engine"),
    (f"{RAY} --num-shards 2 --shard-index 0", 2, "--num-shards divides a run without an engine; with --engine ray,"),
    (f"{RAY} --device cuda:1", 2, "--device is 'cuda:1', expected auto, cpu or cuda: Ray gives each actor its GPU"),
    (f"{RAY} --device cpu --gpus-per-actor 1", 2, "--gpus-per-actor is 1.0, and --device is 'cpu'"),
    (f"plan {UNIFORM} --workers 400", 2, "--n-frms 8, --batch-size 32, --workers 400: 4,256 frames of 224x224 "),
    (f"extract {UNIFORM} --batch-size 4096", 2, "--n-frms 8, --batch-size 4096, --workers 1: 131,112 frames of 224x"),
    (f"inspect text {UNIFORM} --workers 90", 2, "--n-frms 8, --batch-size 32, --workers 90: "),
    (f"doctor {OWN} --n-frms 1024 {LARGE}", 2, "--n-frms 1024, --batch-size 1, --workers 1: 9,216 frames of 512x"),
    # what is not there, or is something else
    ("extract meld ,", 2, "dataset is ',', expected a name; without any, all nine are meant"),
    ("config check list.txt --dataset ,", 2, "dataset is ',', expected a name; without any, all nine are meant"),
    ("extract mer2032", 2, "unknown dataset 'mer2032', did you mean mer2024 or mer2023 or mer2026ov?"),
    ("plan --dataset-root nowhere", 2, "dataset root nowhere is not a directory"),
    ("plan mer2023", 2, "mer2023: "),
    (f"plan {OWN}", 2, "mine: emotion_peak needs action-unit files; --mer-factory-output (or --aus) says where"),
    ("plan --videos nowhere --name mine", 2, "mine: nowhere is not there"),
    ("plan --config nowhere.toml", 2, "nowhere.toml: No such file or directory"),
    ("plan --config nowhere", 2, "nowhere: No such file or directory"),
    ("plan --config list.txt", 2, "list.txt: settings are TOML; write "),
    ("plan --config wrong.toml", 2, "wrong.toml: unknown key 'n_frame', did you mean n_frms or name?; allowed: "),
    (f"plan {UNIFORM} --samples nowhere.txt", 2, "mine: nowhere.txt is not there"),
    ("inspect nowhere.mp4", 2, "there is no video nowhere.mp4"),
    ("inspect videos/text.mp4", 1, "plan: videos/text.mp4: cannot be opened, is no video or is cut short"),
    (f"inspect nobody {OWN}", 2, "'nobody' is neither a video file nor a sample of the datasets"),
    ("inspect x/y --datasets mer2023 meld", 2, "unknown dataset 'x'"),
    ("inspect videos/text.mp4 --show", 2, "--show without a file draws on a terminal, and standard output is none"),
    (f"verify {UNIFORM} --against nowhere", 2, "--against nowhere: there is no nowhere/mine/frame_CLIP_VIT_LARGE_uni"),
    ("pack", 2, "preextracted_features: no dataset with features at "),
    ("unpack mine", 2, "preextracted_features/mine"),
    ("config check nowhere.yaml", 2, "nowhere.yaml: "),
    ("demo x", 2, "Got unexpected extra argument"),
    ("demo --out videos", 2, "videos: is not empty and holds no demo; give another --out"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wrong")
    (place / "videos").mkdir()
    (place / "videos/text.mp4").write_text("no video")
    (place / "list.txt").write_text("a\n")
    (place / "wrong.toml").write_text("n_frame = 8\n")
    return place


@pytest.mark.parametrize(("words", "code", "line"), USES, ids=[words for words, *_ in USES])
def test_a_wrong_use_is_one_line_and_its_exit_code(
    words: str, code: int, line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("GPUPEAK_TRACEBACK", raising=False)
    before = sorted(place.rglob("*"))
    assert main(words.split()) == code
    out, told = capsys.readouterr()
    assert out == ""
    assert told.startswith(f"error: {line}")
    assert told.count("\n") == 1
    assert sorted(place.rglob("*")) == before
    if words.split()[0] in ("extract", "plan", "verify", "report", "inspect", "doctor", "pack", "unpack"):
        assert main([*words.split(), "--json"]) == code
        out, again = capsys.readouterr()
        summary = json.loads(out)
        assert (summary["exit_code"], f"error: {summary['error']}\n") == (code, again)
