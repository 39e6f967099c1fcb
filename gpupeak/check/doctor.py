"""Can this machine do the job, and what is missing? One finding for each thing that a run needs or is faster with."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from gpupeak.child import cores
from gpupeak.config import ExtractConfig
from gpupeak.corpora.corpus import Corpus, resolve
from gpupeak.corpora.samples import list_samples
from gpupeak.corpora.table import default_datasets
from gpupeak.decode.resources import refuse_excess
from gpupeak.encode.weights.identity import identify
from gpupeak.encoders import CLIP_VIT_LARGE, encoder_spec
from gpupeak.errors import GpupeakError, UsageError, WeightsError, out_of_memory
from gpupeak.features.npy import npy_header
from gpupeak.storage import remote
from gpupeak.storage.places import is_directory, place
from gpupeak.types import Url

if TYPE_CHECKING:
    import torch

OK, NOTE, MISSING = ("ok", "note", "missing")
"""As it should be; the job runs, but slower or after a download; the job cannot run."""

_MER_UNIBENCH = 12_799  # samples: what the disk has to hold where no dataset is found
_SPARE = 64 << 20  # bytes beside the features
_AUS = "--mer-factory-output (or --aus) says where they are; without peaks only --fallback or --sampling uniform"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `found` is what is there, `advice` what to do, None where that is nothing."""

    name: str
    state: str
    found: str
    advice: str | None = None


def diagnose(config: ExtractConfig) -> tuple[Finding, ...]:
    """Look at everything that `extract` with the same settings would need; changes nothing and needs no network.

    What `config` names has to be there; what it leaves open may be missing, with a note, where the job still runs.
    """
    remote.forget()
    corpora, datasets = _datasets(config)
    try:
        spec = encoder_spec(config.encoder)
    except UsageError:  # which the finding about weights tells
        spec = CLIP_VIT_LARGE
    for corpus in corpora:
        refuse_excess(config, corpus.rule.n, spec.size, len(corpora))
    system = f"{platform.python_version()}, {cores()} cores, {platform.system()} {platform.machine()}"
    return (
        Finding("Python", OK, system),
        _package("torch", "torch"),
        *_gpu(config),
        _package("PyAV", "av"),
        _package("open_clip", "open_clip_torch", module="open_clip"),
        _weights(config),
        *datasets,
        _disk(config, corpora, spec.dim),
    )


def _package(name: str, *distributions: str, module: str | None = None, without: str | None = None) -> Finding:
    """A package by the name of its distribution; of several, which bring the same module, one may be installed."""
    optional, lacking = len(distributions) > 1, MISSING if without is None else NOTE
    there = [(each, told) for each in distributions if (told := _version(each))]
    if len(there) > 1:
        both = [each for each, _ in there]
        advice = f"pip uninstall {' '.join(both)}; then pip install '{_gpu_extra()}'"
        return Finding(name, lacking, f"{' and '.join(both)} overwrite each other", advice)
    try:
        import_module(module or distributions[0])
    except Exception as error:  # a broken installation may raise anything
        if short := out_of_memory(error):
            return Finding(name, lacking, f"cannot be loaded: {short}", "let it have more")
        advice = f"pip install '{_gpu_extra()}'" if optional else f"pip install {distributions[0]}"
        advice = f"{without}; {advice}" if without else advice
        return Finding(name, lacking, f"cannot be imported: {_line(error)}", advice)
    told = ", ".join(f"{each} {told}" if optional else told for each, told in there)
    return Finding(name, OK, told or "there, of unknown version")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _gpu_extra() -> str:
    from gpupeak.kernels.compile import gpu_extra

    return gpu_extra()


def _gpu(config: ExtractConfig) -> Iterator[Finding]:
    try:
        import torch

        from gpupeak.decode.nvdec import nvdec_abilities
        from gpupeak.lines.build import choose_decoder, choose_device
    except Exception as error:
        yield Finding("device", MISSING, f"cannot be chosen: {out_of_memory(error) or _line(error)}", "mend that first")
        return
    try:
        chosen = [choose_device(each) for each in config.device.split(",")]
    except GpupeakError as error:
        yield Finding("device", MISSING, _line(error), "--device auto takes the CPU where there is no GPU")
        return
    device, why = chosen[0][0], ", ".join(told for _, told in chosen)
    on_gpu = device.type == "cuda"
    if on_gpu:
        has = torch.cuda.get_device_properties(device.index)
        why += f", {has.total_memory / 2**30:.0f} GiB, compute capability {has.major}.{has.minor}"
    slow = None if on_gpu or config.device == "cpu" else "it runs, at seconds a sample: gpupeak is made for NVIDIA GPUs"
    yield Finding("device", OK if slow is None else NOTE, why, slow)
    yield _driver(needed=on_gpu)
    decodes = nvdec_abilities(device.index or 0)
    try:
        choose_decoder(config.decoder, device, decodes)
    except GpupeakError as error:
        yield Finding("NVDEC", MISSING, _line(error), "--decoder auto takes what there is")
    else:
        if isinstance(decodes, str):
            yield Finding("NVDEC", NOTE, decodes, "the CPU's cores decode instead" if on_gpu else None)
        else:
            yield Finding("NVDEC", OK, f"decodes {', '.join(dict.fromkeys(codec for codec, _ in decodes))}")
    needless = None if on_gpu else "not needed without a GPU"
    decoding, computing = needless or "videos are decoded on the CPU", needless or "torch computes what kernels would"
    yield _package("DALI", "nvidia-dali-cuda130", "nvidia-dali-cuda120", module="nvidia.dali", without=decoding)
    yield _package("CuPy", "cupy-cuda13x", "cupy-cuda12x", module="cupy", without=computing)
    if on_gpu:
        yield _kernels(device)


def _kernels(device: torch.device) -> Finding:
    from gpupeak.encode.kernels import FASTEST, compile_kernels

    lacking: list[str] = []
    assert CLIP_VIT_LARGE.tower is not None
    compile_kernels(FASTEST, device, CLIP_VIT_LARGE.tower, lacking.append)
    if lacking:
        return Finding("kernels", NOTE, "; ".join(lacking), "torch computes the same, slower")
    return Finding("kernels", OK, f"compiled: {', '.join(FASTEST)}")


def _driver(needed: bool) -> Finding:
    """The driver's CUDA against torch's: an older driver runs no kernel of a newer torch."""
    import torch

    from gpupeak.decode.driver import cuda_version, too_old

    built = torch.version.cuda
    torch_has = f"torch is built for CUDA {built}" if built else "torch is built without CUDA"
    state, has = MISSING if needed else NOTE, cuda_version()
    if has is None:
        return Finding("driver", state, f"libcuda.so.1 does not load; {torch_has}", "no GPU without NVIDIA's driver")
    if reason := too_old(built):
        return Finding("driver", state, *reason)
    return Finding("driver", OK, f"takes CUDA up to {has[0]}.{has[1]}; {torch_has}: '{_gpu_extra()}' fits")


def _weights(config: ExtractConfig) -> Finding:
    try:
        spec = encoder_spec(config.encoder)
        found = identify(spec, config.weights)
    except UsageError as error:
        return Finding("weights", MISSING, _line(error), "--weights says where they are")
    if found.seed is not None:
        return Finding("weights", NOTE, found.source, "drawn by lot: for trying things out, features mean nothing")
    if not found.files:
        try:
            from gpupeak.encode.openclip import known_tag

            known_tag(spec, str(found.tag))
        except WeightsError as error:
            return Finding("weights", MISSING, _line(error), "--weights says where they are")
        except Exception:  # whatever importing open_clip provokes is told elsewhere
            pass
        advice = "the first run fetches them (1.7 GB for ViT-L/14); without network, --weights DIRECTORY"
        return Finding("weights", NOTE, f"{found.source}: not fetched yet", advice)
    size = sum(file.stat().st_size for file in found.files)
    return Finding("weights", OK, f"{found.files[0]}, {size / 1e9:.2f} GB, SHA-256 {found.sha256}")


def _datasets(config: ExtractConfig) -> tuple[tuple[Corpus, ...], list[Finding]]:
    named = bool(config.datasets or config.videos)
    corpora: tuple[Corpus, ...] = ()
    try:
        corpora = resolve(config)
    except UsageError as error:
        for name in () if named else default_datasets(config.config_file):
            with contextlib.suppress(UsageError):
                corpora += resolve(dataclasses.replace(config, datasets=(name,)))
        if not corpora:
            state = MISSING if named or config.dataset_root else NOTE
            return (), [Finding("datasets", state, _line(error), "gpupeak plan shows them, once they are there")]
    findings = [Finding("datasets", OK, ", ".join(corpus.name for corpus in corpora))]
    for corpus in corpora:
        if corpus.rule.method == "emotion_peak" and not any(map(is_directory, corpus.au_dirs)):
            searched = ", ".join(map(str, corpus.au_dirs)) or "--mer-factory-output is not given"
            findings.append(Finding("action units", NOTE, f"{corpus.name}: none at {searched}", _AUS))
    return corpora, findings


def _disk(config: ExtractConfig, corpora: Sequence[Corpus], dim: int) -> Finding:
    root = place(config.output_root)
    if isinstance(root, Url):
        return Finding("output", OK, f"{root}: in a store, where room is not looked for")
    root = root.absolute()
    there = next(path for path in (root, *root.parents) if path.exists())
    rows: list[int] = []
    for corpus in corpora:
        with contextlib.suppress(UsageError):
            rows += [corpus.rule.n] * len(list_samples(corpus, Path()).samples)
    rows = rows or [config.n_frms or 8] * _MER_UNIBENCH
    need = sum(len(npy_header((n, dim))) + 4 * n * dim for n in rows) + _SPARE
    free = shutil.disk_usage(there).free
    found = f"{root}: {free / 1e9:.1f} GB free, {len(rows):,} samples take {need / 1e9:.2f} GB"
    elsewhere = "name another place with --output-root"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding("output", MISSING, f"{there}: cannot be written to", elsewhere)
    if free < need:
        return Finding("output", MISSING, found, f"make room, or {elsewhere}")
    return Finding("output", OK, found)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
