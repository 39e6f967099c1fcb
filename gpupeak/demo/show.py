"""What does gpupeak do? The whole job on a corpus drawn on the spot, shown and checked."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpupeak.demo.corpus import CLIPS, CONFIG, Clip, DemoCorpus, make_corpus
from gpupeak.errors import ConfigError, WriteError
from gpupeak.features.layout import feature_directory
from gpupeak.features.records import read_manifest

_FEATURES = "preextracted_features"


def run_demo(out: Path, console: Console, command: Callable[[Sequence[str]], int], device: str, weights: str) -> int:
    """Draw a corpus into `out`, extract its features, show what came out and check it; an earlier demo is made anew.

    `command` takes the words after `gpupeak` on a command line. Returns its exit code, or 1 if a peak was not found
    where it was drawn. Raises ConfigError if `out` holds something else than a demo, WriteError.
    """
    corpus = _draw(out, console)
    given = [
        ["--dataset-root", str(corpus.dataset_root)],
        ["--mer-factory-output", str(corpus.mer_factory_output)],
        ["--output-root", str(out / _FEATURES)],
        ["--config", str(corpus.config_file)],
        ["--weights", weights],
        ["--device", device],
    ]

    def gpupeak(*words: str) -> int:
        lines = [words, *given]
        _say(console, "gpupeak " + " \\\n    ".join(map(shlex.join, lines)))
        return command([word for line in lines for word in line])

    _say(console, "\nThe run", "bold")
    if weights.startswith("random:"):
        _say(console, f"The weights are seeded random numbers ({weights}): the features mean nothing.", "yellow")
    if code := gpupeak("extract", *corpus.datasets):
        return code
    _say(console, "\nThe files", "bold")
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        _say(console, str(file))
    array = np.load(_features(out, CLIPS[0]) / f"{CLIPS[0].name}.npy")
    _say(console, f"numpy.load('{CLIPS[0].name}.npy'): {array.dtype}, shape {array.shape}")
    right = _show_frames(console, out)
    page = out / "report.html"
    if all(map(importlib.util.find_spec, ("jinja2", "PIL"))):
        _say(console, "\nThe page", "bold")
        if code := gpupeak("report", *corpus.datasets, "--out", str(page)):
            return code
        _say(console, f"Open it: {page.resolve().as_uri()}", "bold green")
    else:
        _say(console, "With pip install 'gpupeak[report]' the demo ends with a page and the frames as pictures.")
    _say(console, "\nNext: your own copy of MER-UniBench, or your own videos", "bold")
    _say(console, "gpupeak plan --dataset-root DIR --mer-factory-output DIR")
    _say(console, "gpupeak extract --dataset-root DIR --mer-factory-output DIR")
    _say(console, "gpupeak extract --videos DIR --name mycorpus --aus DIR")
    return 0 if right else 1


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True)


def _draw(out: Path, console: Console) -> DemoCorpus:
    began = time.perf_counter()
    try:
        if out.exists() and any(out.iterdir()):
            if not (config := out / "gpupeak.toml").is_file() or config.read_bytes() != CONFIG.encode():
                raise ConfigError(f"{out}: is not empty and holds no demo; give another --out")
            (out / "report.html").unlink(missing_ok=True)
            for name in ("dataset", "mer-factory-output", _FEATURES):
                if (out / name).exists():
                    shutil.rmtree(out / name)
        corpus = make_corpus(out)
    except OSError as error:
        raise WriteError(f"{out}: the demo cannot be written there: {error.strerror or error}") from error
    made = f"{len(CLIPS)} clips, {sum(clip.frames for clip in CLIPS)} frames, of a drawn face whose expression rises to"
    files = "laid out as a small mer2023 and iemocap, one clip without an action-unit file"
    _say(console, "A corpus", "bold")
    _say(console, f"{made} a peak and falls,\n{files}: made in {time.perf_counter() - began:.1f} s.")
    return corpus


def _show_frames(console: Console, out: Path) -> bool:
    """Show which frames were chosen and why; say whether every peak is where it was drawn."""
    table = Table("sample", "drawn", "found", "frames chosen", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.columns[0].no_wrap = True
    wrong = []
    for clip in CLIPS:
        (line,) = (line for line in read_manifest(_features(out, clip)) if line.sample == clip.name)
        peak, indices = line.peak, line.indices
        found = f"{peak.index}, by {peak.source}" if peak else f"{line.fallback and line.fallback.reason}: uniform"
        expected = None if clip.source is None else (clip.peak, clip.source)
        if (peak and (peak.index, peak.source)) != expected or (peak and clip.peak not in indices):
            wrong.append(clip.name)
        chosen = Text(" ").join(Text(str(index), "bold green" if index == clip.peak else "") for index in indices)
        table.add_row(clip.name, str(clip.peak), found, chosen)
    _say(console, "\nWhich frames, and why", "bold")
    console.print(table)
    if wrong:
        _say(console, f"Not where they were drawn: the peaks of {', '.join(wrong)}.", "red")
    else:
        right = "Every peak that a file tells was found where it was drawn, and is among the frames chosen."
        _say(console, right, "green")
    return not wrong


def _features(out: Path, clip: Clip) -> Path:
    return feature_directory(out / _FEATURES, clip.dataset, "CLIP_VIT_LARGE", "emotion_peak", 8)
