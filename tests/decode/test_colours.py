"""Colours as libav's, from the arithmetic of DALI's decoder on the GPU, written out here."""

from __future__ import annotations

import importlib
import platform
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import nvidia.dali
import pytest
import torch

from gpupeak.decode import decode_frames
from gpupeak.decode.colours import BIAS_ON_GPU, as_swscale
from gpupeak.decode.nvdec import examine
from gpupeak.types import VideoFacts
from gpupeak.video.container import open_clip
from gpupeak.video.remake import Remade

gpu_colours: Any = importlib.import_module("gpu_colours")
SIZE = 224
Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="swscale's SIMD code rounds in its own way")


def on_gpu(luma: Floats, cb: Floats, cr: Floats, *, full: bool) -> Floats:
    """What the kernels of DALI 2.4 for limited and for full range do, as their code for sm_90 reads, before they
    round."""
    y, b, r = luma / 255, cb / 255 - 0.5, cr / 255 - 0.5
    if full:
        return 255 * np.stack([y + 1.402 * r, y - 0.3441363 * b - 0.7141363 * r, y + 1.772 * b], -1)
    y = 1.16438353 * (y - 0.0625)
    return 255 * np.stack([y + 1.59602678 * r, y - 0.39176229 * b - 0.81296766 * r, y + 2.01723218 * b], -1)


def bt601(luma: Floats, cb: Floats, cr: Floats, *, full: bool) -> Floats:
    zero, scale, scale_of_colours = (0, 255, 255) if full else (16, 219, 224)
    y, b, r = (luma - zero) / scale, (cb - 128) / scale_of_colours, (cr - 128) / scale_of_colours
    green = (y - 0.299 * (y + 1.402 * r) - 0.114 * (y + 1.772 * b)) / 0.587
    return 255 * np.stack([y + 1.402 * r, green, y + 1.772 * b], -1)


@pytest.mark.parametrize("full", [False, True])
def test_the_bias_is_that_of_the_kernels_offsets(full: bool) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (3, 1000)).astype(float)
    apart = on_gpu(*codes, full=full) - bt601(*codes, full=full)
    assert np.ptp(apart, axis=0).max() < 1e-4, "the same for every colour"
    np.testing.assert_allclose(BIAS_ON_GPU[full], apart.mean(0), atol=1e-4)


@x86
@pytest.mark.parametrize("colorspace", [5, 1])
@pytest.mark.parametrize("full", [False, True])
def test_flat_colours_become_swscales(colorspace: int, full: bool) -> None:
    """Every pixel is DALI's conversion by BT.601, on the CPU, of a colour that swscale converts by its tag."""
    colours = np.random.default_rng(0).integers((60, 112, 112), (190, 145, 145), (64, 3))
    colours[:8, 1:] = 128
    pixels = torch.tensor(bt601(*colours.T, full=full).round().astype(np.uint8))[:, None, None].repeat(1, 32, 32, 1)
    as_swscale(pixels, [VideoFacts(colorspace == 1, full, 0, "yuv420p")] * 8, by_gpu=False)
    errors = []
    for (y, u, v), found in zip(colours, pixels.numpy(), strict=True):
        planes = np.concatenate([np.full((64, 64), y), np.full((16, 64), u), np.full((16, 64), v)]).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(planes, format="yuvj420p" if full else "yuv420p")
        frame.colorspace = colorspace
        wanted = frame.reformat(32, 32, "rgb24", interpolation="BILINEAR").to_ndarray()
        errors.append(found.astype(int) - wanted)
    assert np.abs(errors).max() < 3
    assert np.abs(np.mean(errors, axis=(0, 1, 2))).max() < 0.5
    assert not full or not np.any(errors[:8]), "greys are exact"


def doubled(chroma: npt.NDArray[Any], axis: int) -> Floats:
    """Twice as many values along an axis, linear between the middles of the given ones."""
    places = np.arange(2 * chroma.shape[axis]) / 2 - 0.25
    low = np.floor(places).astype(int)
    share = (places - low).reshape([-1 if each == axis else 1 for each in range(2)])
    near, far = (chroma.take((low + step).clip(0, chroma.shape[axis] - 1), axis) for step in (0, 1))
    return (1 - share) * near + share * far  # type: ignore[no-any-return]


def as_the_gpu_shows(frame: av.VideoFrame) -> Pixels:
    planes, height, full = frame.to_ndarray(), frame.height, frame.format.name == "yuvj420p"
    chroma = planes[height:].reshape(2, height // 2, frame.width // 2)
    cb, cr = (doubled(doubled(plane, 0), 1) for plane in chroma)
    return on_gpu(planes[:height].astype(float), cb, cr, full=full).round().clip(0, 255).astype(np.uint8)


def squashed(frames: list[Pixels]) -> torch.Tensor:
    """By the filter that the decoder's pipeline ends in."""
    dali: Any = nvidia.dali
    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        given = dali.fn.external_source(name="given", dtype=dali.types.UINT8, layout="FHWC")
        squash = dali.fn.resize(given, size=(SIZE, SIZE), interp_type=dali.types.INTERP_TRIANGULAR)
        pipeline.set_outputs(squash)
    pipeline.build()
    pipeline.feed_input("given", [np.stack(frames)])
    return torch.from_numpy(np.array(pipeline.run()[0].as_tensor())[0])


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found: dict[str, Path] = gpu_colours.write(tmp_path_factory.mktemp("films"))
    return found


@x86
@pytest.mark.parametrize("name", gpu_colours.FILMS)
def test_the_gpus_colours_become_libavs_and_would_not_uncorrected(name: str, films: dict[str, Path]) -> None:
    with av.open(str(films[name])) as container:
        pixels = squashed([as_the_gpu_shows(frame) for frame in container.decode(video=0)])
    wanted = decode_frames(films[name], range(gpu_colours.FRAMES))
    with open_clip(films[name]) as clip:
        facts, given = examine(clip, range(gpu_colours.FRAMES))
    assert isinstance(given, Remade), "NVDEC is given it"
    verdicts = {}
    for by_gpu in (True, False):
        ours = pixels.clone()
        as_swscale(ours, [facts], by_gpu=by_gpu)
        verdicts[by_gpu] = gpu_colours.judge(ours.numpy(), wanted)
    assert verdicts[True]["ok"], verdicts[True]["says"]
    assert not verdicts[False]["ok"], verdicts[False]["says"]
