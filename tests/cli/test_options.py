"""Words on the command line become settings, and help tells of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpupeak import ExtractConfig
from gpupeak.cli.app import main
from gpupeak.config import OPTIONS
from gpupeak.types import Shard

WORDS = {
    "": ExtractConfig(),
    "--dataset-root root --mer-factory-output s3://x/aus": ExtractConfig(
        dataset_root=Path("root"), mer_factory_output="s3://x/aus"
    ),
    "--videos clips --name mine --aus aus": ExtractConfig(videos=Path("clips"), name="mine", aus=Path("aus")),
    "--samples list.txt --limit 6 --split all": ExtractConfig(samples=Path("list.txt"), limit=6, split="all"),
    "--config own.toml --cache kept --cache-size 1.5GB": ExtractConfig(
        config_file=Path("own.toml"), cache=Path("kept"), cache_size=1_500_000_000
    ),
    "--stream face --sampling uniform --n-frms 4": ExtractConfig(stream="face", sampling="uniform", n_frms=4),
    "--fallback middle --peak-source openface --seed 3": ExtractConfig(
        fallback="middle", peak_source="openface", seed=3
    ),
    "--face 2 --min-confidence 0.8 --no-blinks --smooth 5": ExtractConfig(
        face=2, min_confidence=0.8, no_blinks=True, smooth=5
    ),
    "--visual-encoder open_clip:ViT-B-32 --weights random:7": ExtractConfig(
        encoder="open_clip:ViT-B-32", weights="random:7"
    ),
    "--device cuda:1 --decoder cpu --batch-size 2": ExtractConfig(device="cuda:1", decoder="cpu", batch_size=2),
    "--workers 5 --time-limit 1.5": ExtractConfig(workers=5, time_limit=1.5),
    "--num-shards 8 --shard-index 3": ExtractConfig(num_shards=8, shard_index=3),
    "--engine ray --address head:6379 --actors 2:8 --gpus-per-actor 0.5": ExtractConfig(
        engine="ray", address="head:6379", actors="2:8", gpus_per_actor=0.5
    ),
    "--output-root out --overwrite --refresh --fsync": ExtractConfig(
        output_root=Path("out"), overwrite=True, refresh=True, fsync=True
    ),
    "--datasets meld mer2023": ExtractConfig(datasets=("meld", "mer2023")),
}


@pytest.mark.parametrize("words", WORDS)
def test_options_reach_their_settings(words: str, stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").touch()
    assert main(["extract", *words.split()]) == 0
    assert stage.configs == [WORDS[words]]


def test_every_setting_has_an_option() -> None:
    given = [(name, getattr(config, name)) for config in WORDS.values() for name in OPTIONS]
    assert {name for name, value in given if value != OPTIONS[name].default} == OPTIONS.keys()


@pytest.mark.parametrize(
    "words",
    [
        "meld mer2023 --seed 1",
        "meld,mer2023 --seed 1",
        "--datasets meld mer2023 --seed 1",
        "--seed 1 --datasets meld mer2023",
        "--datasets=meld,mer2023 --seed 1",
        "--seed 1 --datasets meld mer2023 meld",
        "--seed 1 -- meld mer2023",
    ],
)
def test_datasets_can_be_spelt_in_many_ways(words: str, stage: Any) -> None:
    assert main(["extract", *words.split()]) == 0
    assert stage.configs == [ExtractConfig(datasets=("meld", "mer2023"), seed=1)]


def test_help_groups_every_option_and_documents_the_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["extract", "--help"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"╭─ (\w+) ", text) == [
        *["Arguments", "Options", "Source", "Sampling", "Encoder", "Run", "Output"]
    ]
    for option in re.findall("--[a-z-]+", " ".join(WORDS)):
        assert option in text
    for code in ("0 all saved", "1 some samples failed", "2 wrong use", "3 the run could", "130 interrupted"):
        assert code in " ".join(text.split())
    assert "[default: CLIP_VIT_LARGE]" in text
    assert "MODEL[/TAG]" in text


def test_every_command_takes_the_options_that_mean_something_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    def options(command: str) -> set[str]:
        assert main([command, "--help"]) == 0
        return set(re.findall(r"^│ (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))

    every = options("extract")
    shards = {"--num-shards", "--shard-index", "--overwrite", "--refresh"}
    ray = {"--engine", "--address", "--actors", "--gpus-per-actor"}
    assert options("plan") - {"--show-settings"} == every
    assert options("verify") - {"--deep", "--against", "--min-cosine", "--fix"} == every - shards
    assert options("report") - {"--out", "--show", "--show-unusual", "--show-samples"} == every - shards
    assert options("inspect") - {"--show"} == every - shards - ray - {"--quiet"}
    assert options("doctor") == every - {"--quiet"}
    features = {"--datasets", "--output-root", "--visual-encoder", "--stream", "--sampling", "--n-frms", "--config"}
    assert options("pack") == options("unpack") == {*features, "--json", "--help"}


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_gpupeak_alone_prints_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    for command in ("extract", "plan", "inspect", "demo"):
        assert re.search(rf"^│ {command} ", text, re.MULTILINE)


def test_the_shard_is_taken_from_slurm_which_is_said_and_can_be_refused(
    stage: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"ID": "3", "COUNT": "8", "MIN": "0"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert main(["extract"]) == 0
    assert "shard 3 of 8, by SLURM_ARRAY_TASK_ID=3; --num-shards 1 takes all samples" in capsys.readouterr().err
    assert main(["extract", "--num-shards", "1"]) == 0
    assert main(["extract", "--num-shards", "1", "--shard-index", "0"]) == 0
    assert main(["extract", "--num-shards", "2", "--shard-index", "0"]) == 0
    assert "by SLURM" not in capsys.readouterr().err
    assert [config.shard for config in stage.configs] == [Shard(3, 8), None, None, Shard(0, 2)]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "99")
    assert main(["extract"]) == 2
    assert len(stage.configs) == 4


def test_shells_complete_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    assert main(["--show-completion"]) == 0
    assert "complete -o default -F _gpupeak_completion gpupeak" in capsys.readouterr().out
    monkeypatch.setenv("_GPUPEAK_COMPLETE", "complete_bash")
    completed = {"ext": "extract", "plan --samp": "--samples\n--sampling", "plan ie": "iemocap"}
    for words, expected in completed.items():
        monkeypatch.setenv("COMP_WORDS", f"gpupeak {words}")
        monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
        assert main([]) == 0
        assert capsys.readouterr().out.strip() == expected


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gpupeak.cli.app import main; "
        "codes = [main(words.split()) for words in ('--version', '--help', 'extract --help', 'inspect --help')]; "
        "heavy = {'torch', 'av', 'numpy', 'open_clip'} & set(sys.modules); sys.exit(' '.join(heavy) or any(codes))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
