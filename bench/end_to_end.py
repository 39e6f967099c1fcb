"""How long does a sample take from its video to its file, beside the extractor that people use today?

Both sides have the same drawn weights, clips, and torch threads, and have loaded their encoder before. gpupeak's is
the line that `gpupeak extract` runs; on a CPU with one decoding process, which works while the encoder does. The
other one is `peers.baseline`, one sample after the other. What bounds both on a CPU is the encoder, so the size of
clips is told apart by ViT-B/32; ViT-L/14, which AffectGPT uses, hides it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from encoders import VIT_B_32, VIT_L_14
from gpu_encode import fidelity, worst
from peers.baseline import Baseline, decoder
from peers.decoders import Decode
from record import NOISE, Record, Row, alternated, beside
from workload import Scale, decode_clips, facts, make, sample_of, saved

from gpupeak.config import ExtractConfig
from gpupeak.encode.vit import expected_state
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import CLIP_VIT_LARGE, EncoderSpec, TowerShape, encoder_spec
from gpupeak.lines.build import build
from gpupeak.storage.places import local
from gpupeak.types import Sample

OURS, THEIRS = "gpupeak", "baseline"
N = 8
FAR = 0.02
"""Relative L2 of features of one frame that two decoders squashed; that of its neighbour is farther (bench/LOG.md)."""


def end_to_end(record: Record, scale: Scale, work: Path) -> None:
    """Clip by clip with ViT-B/32; in full one of them with ViT-L/14, too."""
    clips = {clip.size: clip for clip in reversed(decode_clips(scale)) if clip.codec == "h264"}  # the first of a size
    paths = make([clips[size] for size in sorted(clips)], work / "clips")
    name, decode = decoder()
    samples = {clip.size: sample_of(path, work / "end-to-end", work / "aus") for clip, path in paths.items()}
    b_32 = encoder_spec("open_clip:ViT-B-32-quickgelu")
    with contextlib.closing(Sides(b_32, VIT_B_32, name, decode)) as sides:
        for (width, height), sample in samples.items():
            # Several in a row, else it is no line; a few rounds, as more would take minutes.
            record.row(f"ViT-B/32, {width}x{height}", sides.compare, sample, 3 if scale.quick else 6, 3, least=1.0)
    if not scale.quick:
        with contextlib.closing(Sides(CLIP_VIT_LARGE, VIT_L_14, name, decode)) as sides:
            sample = samples[640, 360]
            # One at a time: on a CPU a sample takes ten seconds, and hardly any of them for its frames.
            record.row("ViT-L/14, 640x360", sides.compare, sample, 1, 3, least=NOISE)


class Sides:
    """gpupeak's line and the baseline with the same weights; `name` is what `decode` is, by which the latter reads."""

    def __init__(self, spec: EncoderSpec, shape: TowerShape, name: str, decode: Decode) -> None:
        workers = None if torch.cuda.is_available() else 1
        told: list[str] = []
        config = ExtractConfig(encoder=spec.name, weights="random:0", workers=workers)
        self._line = build(config, spec, N, told.append)
        self._baseline = Baseline(shape, random_state(0, expected_state(shape)), decode)
        self._conditions = {
            "encoder": spec.name,
            "line": told,
            "workers": workers,
            "torch_threads": torch.get_num_threads(),
            "baseline_decoder": name,
        }

    def close(self) -> None:
        self._line.close()

    def compare(self, sample: Sample, count: int, rounds: int, *, least: float) -> Row:
        """A sample, `count` times in a row to files of their own; its features by both sides."""
        assert sample.video is not None
        samples = {side: [_to(sample, side, number) for number in range(count)] for side in (OURS, THEIRS)}
        steps: dict[str, dict[str, list[float]]] = {side: defaultdict(list) for side in samples}

        def ours() -> None:
            for outcome in saved(self._line.run(samples[OURS])):
                _note(steps[OURS], outcome.seconds)

        def theirs() -> None:
            for each in samples[THEIRS]:
                au_file = each.au_dirs[0] / each.name / f"{each.name}_au_analysis.json"
                _note(steps[THEIRS], self._baseline.extract(each.video, au_file, each.target))  # type: ignore[arg-type]

        compared = beside(OURS, alternated({OURS: ours, THEIRS: theirs}, rounds))
        found, wanted = (np.concatenate([np.load(local(each.target)) for each in samples[side]]) for side in samples)
        differences = worst(fidelity(found, wanted.astype(np.float64), wanted.mean(0)))
        a_sample = {side: seconds["median_s"] / count for side, seconds in compared["seconds"].items()}
        ratio = compared["ratios"][THEIRS]
        return {
            **self._conditions,
            **facts(local(sample.video)),
            "samples": count,
            "rounds": rounds,
            **compared,
            "s_a_sample": a_sample,
            "steps_s": {
                side: dict(zip(of, map(statistics.median, of.values()), strict=True)) for side, of in steps.items()
            },
            "differences": differences,
            "ok": differences["relative_l2"] < FAR,
            "targets": [{"what": f"{THEIRS} / {OURS}", "figure": ratio["median"], "sign": ">=", "limit": least}],
            "says": f"{a_sample[OURS]:.3g} s a sample, {THEIRS} ({self._conditions['baseline_decoder']}) "
            f"{a_sample[THEIRS]:.3g} s, {ratio['median']:.2f} times as long ({ratio['least']:.2f} to "
            f"{ratio['most']:.2f}); relative L2 {differences['relative_l2']:.1e}",
        }


def _to(sample: Sample, side: str, number: int) -> Sample:
    target = sample.target.parent / side / f"{sample.name}_{number}.npy"
    local(target).parent.mkdir(parents=True, exist_ok=True)
    return dataclasses.replace(sample, target=target)


def _note(steps: dict[str, list[float]], seconds: Mapping[str, float]) -> None:
    for step, taken in seconds.items():
        steps[step].append(taken)
