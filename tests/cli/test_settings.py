"""Settings come from the command line, the environment and a file, in this order, and it is told from where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from samples import write_features

from gpupeak import ExtractConfig
from gpupeak.cli.app import main
from gpupeak.config import OPTIONS
from gpupeak.corpora.table import read_table

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/gpupeak.toml"
MINE = """
    [datasets.mine]
    videos = "clips"
    n_frms = 16
"""
FILE = """
    dataset = ["mer2023", "mine"]
    output-root = "features"
    weights = "clip"
    visual_encoder = "DINO2_LARGE"
    cache_size = "3GB"
    n_frms = 4
    fsync = true
    seed = 5
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[Any, str]]:
    assert main(["plan", "--show-settings", "--json", *words.split()]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    return {name: (each["value"], each["from"]) for name, each in settings.items() if each["from"] != "default"}


def test_the_file_holds_every_option_and_its_paths_start_at_it(
    place: Path, stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "lab/clip").mkdir(parents=True)
    (place / "lab/gpupeak.toml").write_text(FILE + MINE)
    assert main(["extract", "--config", "lab/gpupeak.toml"]) == 0
    assert capsys.readouterr().err == ""
    (config,) = stage.configs
    assert config == ExtractConfig(
        datasets=("mer2023", "mine"),
        config_file=Path("lab/gpupeak.toml"),
        cache_size=3_000_000_000,
        seed=5,
        encoder="DINO2_LARGE",
        weights="lab/clip",
        output_root=Path("lab/features"),
        fsync=True,
    )
    assert main(["extract", "meld", "--config", "lab/gpupeak.toml"]) == 0
    assert stage.configs[-1].datasets == ("meld",)


def test_command_line_then_environment_then_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "gpupeak.toml").write_text(FILE + MINE)
    for name, value in {"N_FRMS": "6", "SEED": "6", "FSYNC": "0", "ENCODER": "SigLIP_SO", "WEIGHTS": ""}.items():
        monkeypatch.setenv(f"GPUPEAK_{name}", value)
    assert main(["extract", "--seed", "7"]) == 0
    assert capsys.readouterr().err == "settings from gpupeak.toml\n"
    (config,) = stage.configs
    assert (config.seed, config.n_frms, config.fsync, config.encoder) == (7, 6, False, "SigLIP_SO")
    found = told("--seed 7", capsys)
    assert found["seed"] == (7, "command line")
    assert found["n-frms"] == (6, "GPUPEAK_N_FRMS")
    assert found["visual-encoder"] == ("SigLIP_SO", "GPUPEAK_ENCODER")
    assert found["output-root"] == ("features", "gpupeak.toml")
    assert found["mine: n-frms"] == (16, "gpupeak.toml")
    assert "weights" in found and "device" not in found
    monkeypatch.delenv("GPUPEAK_N_FRMS")
    assert told("", capsys)["n-frms"] == (4, "gpupeak.toml")
    assert main(["extract"]) == 0
    assert stage.configs[-1].n_frms is None  # for a dataset's own comes first
    (place / "gpupeak.toml").write_text("overwrite = true\nno_blinks = true\nrefresh = true")
    assert main(["extract", "--no-overwrite", "--blinks"]) == 0
    config = stage.configs[-1]
    assert (config.overwrite, config.no_blinks, config.refresh) == (False, False, True)


@pytest.mark.parametrize(
    ("file", "variable", "line"),
    [
        ("cache_size = 'x'", "", "gpupeak.toml: cache_size is 'x', expected bytes (20GB, 512MiB) from 1"),
        ("fsync = 1", "", "gpupeak.toml: fsync is 1, expected true or false"),
        ("n_frms = 8\nn-frms = 4", "", "gpupeak.toml: n-frms is given twice, the other time spelt otherwise"),
        ("", "DATASETS=,", "GPUPEAK_DATASETS is ',', expected a list of names"),
        ("", "N_FRMS=many", "GPUPEAK_N_FRMS is 'many', expected a whole number from 1 to 1,024"),
        ("", "OVERWRITE=maybe", "GPUPEAK_OVERWRITE is 'maybe', expected true or false"),
        ("", "CACHE_SIZE=x", "GPUPEAK_CACHE_SIZE is 'x', expected bytes (20GB, 512MiB) from 1"),
    ],
)
def test_a_wrong_value_is_told_with_its_place(
    file: str,
    variable: str,
    line: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / "gpupeak.toml").write_text(file)
    name, _, value = variable.partition("=")
    monkeypatch.setenv(f"GPUPEAK_{name}", value)
    assert main(["plan"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {line}")


def test_no_file_and_no_variable_is_passed_over_in_silence(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPUPEAK_NFRMS", "6")
    assert main(["config", "emit"]) == 0
    assert capsys.readouterr().err.endswith("GPUPEAK_NFRMS in the environment is no setting, did you mean n_frms?\n")
    (place / "gpupeak.toml").symlink_to("nowhere")
    assert main(["config", "emit"]) == 2
    assert capsys.readouterr().err.endswith("error: gpupeak.toml: No such file or directory\n")


def test_emit_takes_what_it_does_not_know_better(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "gpupeak.toml").write_text("output_root = '/lab/out'\nn_frms = 4\nweights = 'random:0'")
    assert main(["config", "emit", "mer2023", "--n-frms", "6"]) == 0
    assert "# mer2023: /lab/out/mer2023/frame_CLIP_VIT_LARGE_emotion_peak_6frms\n" in capsys.readouterr().out
    (place / "gpupeak.toml").write_text("n_frms = 4" + MINE)
    for name, n in (("mine", 16), ("meld", 4)):
        assert main(["config", "emit", name]) == 0
        assert f"/{name}/frame_CLIP_VIT_LARGE_emotion_peak_{n}frms\n" in capsys.readouterr().out
    assert main(["config", "emit", "mine", "meld"]) == 2
    assert capsys.readouterr().err.startswith(
        "settings from gpupeak.toml\nerror: --n-frms is 16 for mine, 4 for meld; "
    )


def test_pack_takes_of_the_file_what_it_takes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "gpupeak.toml").write_text("weights = 'random:0'\noutput_root = 'out'\nsampling = 'uniform'\n" + MINE)
    for name, directory in (("meld", "uniform_8frms"), ("mine", "uniform_16frms")):
        home = place / "out" / name / f"frame_CLIP_VIT_LARGE_{directory}"
        write_features(home, "a", shape=(int(directory[8:-4]), 3))
        (home / "run.json").write_text("{}")
    main(["pack", "--json"])
    out = capsys.readouterr()
    assert json.loads(out.out).get("datasets") == {"meld": 1, "mine": 1}, out
    (place / "gpupeak.toml").unlink()
    (place / "out/meld/frame_of_other_frms").mkdir()
    (place / "out/loop").symlink_to("loop")
    assert main(["pack", "MELD", "--output-root", "out"]) == 0, "the only features that there are"
    assert capsys.readouterr().out.startswith("meld: 1 sample packed into out/meld/frame_CLIP_VIT_LARGE_uniform_8frms.")
    shutil.rmtree(place / "out/mine/frame_CLIP_VIT_LARGE_uniform_16frms")
    assert main(["unpack", "--output-root", "out"]) == 0
    out = capsys.readouterr()
    assert [line.partition(" of ")[0] for line in out.out.splitlines()] == ["meld: 0", "mine: 1"]
    assert out.err == "warning: out/loop: cannot be read: Too many levels of symbolic links\n"
    assert main(["pack", "loop", "--output-root", "out"]) == 2
    assert capsys.readouterr().err == out.err.replace("warning", "error")
    (place / "out/meld/frame_CLIP_VIT_LARGE_headtail_8frms").mkdir()
    assert main(["pack", "meld", "--output-root", "out"]) == 2
    assert "out/meld holds frame_CLIP_VIT_LARGE_headtail_8frms, frame_CLIP_VIT_LARG" in capsys.readouterr().err


def test_init_writes_every_option_and_overwrites_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    written = (place / "gpupeak.toml").read_text()
    assert written == EXAMPLE.read_text(), "gpupeak init examples/gpupeak.toml writes it again"
    lines = written.splitlines()
    set_ = [line.removeprefix("# ") for line in lines if " = " in line or line.startswith("# [datasets")]
    (place / "all.toml").write_text("\n".join(set_))
    table = read_table(place / "all.toml")
    assert table.settings.keys() == OPTIONS.keys() - {"config_file"}
    assert table.entries["mycorpus"].n_frms == 16
    assert main(["init"]) == 2
    assert capsys.readouterr().err == "error: gpupeak.toml: is there already; name another file\n"
