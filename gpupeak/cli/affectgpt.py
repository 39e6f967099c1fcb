"""`gpupeak config check` and `gpupeak config emit`."""

# ruff: noqa: B008 - a default that is a call is how typer is told of an option

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from gpupeak.cli.options import JSON, dataset_names, gathered, option
from gpupeak.cli.output import Output, print_json
from gpupeak.config import ENCODER, OPTIONS, OUTPUT, SAMPLING, SOURCE
from gpupeak.corpora.table import read_table
from gpupeak.encoders import CLIP_VIT_LARGE, encoder_spec
from gpupeak.errors import ConfigError, counted, few

if TYPE_CHECKING:
    from gpupeak.check.affectgpt import Check, Judgement, Setting

consumer = typer.Typer(help="AffectGPT's configuration: check that it loads these features, or print what to paste.")


@consumer.command(
    "check",
    epilog="Exit codes: 0 inference with it loads the features of every dataset asked for, 1 it does not, "
    "2 no such file, or none of AffectGPT's.",
)
def config_check(
    file: Path = typer.Argument(help="The configuration: evaluation's or training's.", metavar="FILE"),
    datasets: list[str] | None = option(
        None,
        SOURCE,
        "NAMES",
        "Datasets, or AffectGPT's names for them: one or several.",
        "--dataset",
        "--datasets",
        told="those that have a directory under the root",
    ),
    options: list[str] | None = option(None, SOURCE, "KEY=VALUE", "As AffectGPT's --options."),
    face_or_frame: str | None = option(None, SOURCE, "VALUE", "As AffectGPT's --outside_face_or_frame."),
    run_dir: Path = option(Path(), SOURCE, "DIR", "Where AffectGPT runs.", told="the current directory"),
    as_json: bool = JSON,
) -> int:
    """Show what AffectGPT reads of its configuration, and whether it would load the features that are there."""
    from gpupeak.check.affectgpt import check

    names = dataset_names(datasets or ())
    found = check(file, names, options=options or (), face_or_frame=face_or_frame, run_dir=run_dir)
    if as_json:
        print_json(found.exit_code, **found.to_json())
    else:
        _print(Output(), found)
    return found.exit_code


@consumer.command("emit")
def config_emit(
    datasets: list[str] | None = typer.Argument(None, help="Names, apart or joined by commas.", metavar="DATASETS"),
    config: str | None = option(None, SOURCE, "FILE", "As in extract.", told=OPTIONS["config_file"].told),
    output_root: str | None = option(None, OUTPUT, "DIR", "Where the features are.", told="./preextracted_features"),
    n_frms: str | None = option(None, SAMPLING, "N", "As in extract.", told=8),
    visual_encoder: str | None = option(None, ENCODER, "NAME", "As in extract.", told="CLIP_VIT_LARGE"),
    training: bool = option(False, OUTPUT, "", "Sections for training, too.", "--training"),
    faces: bool = option(False, OUTPUT, "", "Load the face stream's features, too.", "--faces"),
) -> int:
    """Print the lines that make AffectGPT load these features, to be put into its configuration."""
    from gpupeak.check.affectgpt import emit

    words = {"config_file": config, "output_root": output_root, "n_frms": n_frms, "encoder": visual_encoder}
    settings, given = gathered({field: OPTIONS[field] for field in words}, words)
    root = output_root or (str(settings.output_root) if "output_root" in given else "./preextracted_features")
    names, encoder, table = dataset_names(datasets or ()), settings.encoder, read_table(settings.config_file)
    each = {name: settings.n_frms or table.said(name, "n_frms") or 8 for name in names or table.default}
    if len(set(each.values())) > 1:
        told = few(f"{count} for {name}" for count, name in {each[name]: name for name in each}.items())
        raise ConfigError(f"--n-frms is {told}; AffectGPT's section inference has one: give it, or emit them apart")
    n = next(iter(each.values()))
    text = emit(names, output_root=root, n_frms=n, encoder=encoder, training=training, faces=faces)
    for line in text.splitlines():
        Output().print(Text(line), soft_wrap=True)  # to be pasted
    if (dim := encoder_spec(encoder).dim) != CLIP_VIT_LARGE.dim:
        trained = f"AffectGPT's models are trained on {CLIP_VIT_LARGE.dim}, and one takes no other width than its own"
        Output(stderr=True).warn(f"{encoder} gives {dim} numbers a frame: {trained}")
    return 0


def _print(console: Output, found: "Check") -> None:
    groups: dict[tuple[str, str, tuple[Setting, ...]], list[Judgement]] = {}
    for judgement in found.judgements:
        groups.setdefault((judgement.use, judgement.stream, judgement.settings), []).append(judgement)
    for (use, stream, settings), judgements in groups.items():
        console.say(use if stream == "frame" else f"{use}, faces", "bold")
        wide = max((len(str(setting.value)) for setting in settings), default=0)
        keys = max([18, *(len(setting.key) for setting in settings)])
        for setting in settings:
            console.say(f"  {setting.key:<{keys}} {setting.value!s:<{wide}}  {setting.origin}")
        for judgement in judgements:
            console.say(_loads(judgement), "" if judgement.loads else "red")
        for problem in dict.fromkeys(problem for each in judgements for problem in each.problems):
            names = [each.dataset for each in judgements if problem in each.problems]
            whose = "" if len(names) == len(judgements) else f"{', '.join(names)}: "
            console.say(f"  {whose}{problem}")
        for instead in dict.fromkeys(judgement.instead for judgement in judgements if not judgement.loads):
            console.say(f"  instead, AffectGPT {instead}")
        for judgement in judgements:
            for warning in judgement.warnings:
                console.warn(f"{judgement.dataset}: {warning}")
    for text in found.no_effect:
        console.say(f"no effect: {text}", "yellow")
    for text in found.warnings:
        console.warn(text)
    wanting = [each for each in found.judgements if each.use == "inference" and not each.loads]
    how = "loads"
    if found.exit_code:
        how = "loads only a part of" if wanting and all(each.partly for each in wanting) else "does not load"
    console.say(f"inference with this configuration {how} these features", "red" if found.exit_code else "green")


def _loads(judgement: "Judgement") -> str:
    of = judgement.expected
    files = counted(judgement.files, "file") if of is None else f"{judgement.files}/{of} files"
    where = f", {files} in {judgement.directory}" if judgement.directory is not None else ""
    how = "loaded" if judgement.loads else "loaded in part" if judgement.partly else "not loaded"
    return f"  {judgement.dataset}: {how}{where}"
