"""Can this machine do the job, and what is missing? One finding for each thing that a run needs or is faster with."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gpupeak.child import cores
from gpupeak.config import ExtractConfig
from gpupeak.corpora.corpus import Corpus, resolve
from gpupeak.decode.driver import cuda_version, too_old
from gpupeak.decode.resources import refuse_excess
from gpupeak.encode.weights.fit import explained, fit, fitting, parameters, tower_shape
from gpupeak.encode.weights.identity import WeightsId, identify, meaningless
from gpupeak.encoders import CLIP_VIT_LARGE, EncoderSpec, encoder_spec
from gpupeak.errors import AuError, GpupeakError, LabelError, UsageError, WeightsError, counted, out_of_memory, sized
from gpupeak.features.remote import copies_below
from gpupeak.run import Job, prepare
from gpupeak.storage import remote
from gpupeak.storage.places import place
from gpupeak.types import Place, Url

if TYPE_CHECKING:
    import torch

OK, NOTE, MISSING = ("ok", "note", "missing")
"""As it should be; the job runs, but slower or after a download; the job cannot run."""

_SPARE = 64 << 20  # bytes beside the features
_HUB_SECONDS = 5.0
_OPENAI = "timm/vit_large_patch14_clip_224.openai"
_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_KNOWN = {
    "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb": ", OpenAI's model.safetensors",
    "f1a17cdbe0f36fec524f5cafb1c261ea3bbbc13e346e0f74fc9eb0460dedd0d3": ", OpenAI's pytorch_model.bin",
}
"""Of openai/clip-vit-large-patch14 on the Hugging Face hub."""
_NO_DRIVER = "there is no NVIDIA driver: libcuda.so.1 does not load"
_SLOW = "it runs, at seconds a sample: gpupeak is made for NVIDIA GPUs"
_TAKES_CPU, _TAKES_WHAT = "--device auto takes the CPU where there is no GPU", "--decoder auto takes what there is"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `found` is what is there, `advice` what to do, None where that is nothing."""

    name: str
    state: str
    found: str
    advice: str | None = None


def diagnose(config: ExtractConfig) -> tuple[Finding, ...]:
    """Look at everything that `extract` with the same settings would need; changes nothing.

    What `extract` would refuse is missing, in its own words. Of weights that are yet to be fetched the hub is asked.
    """
    remote.forget()
    weights, spec, known = _weights(config)
    work = tuple(_work(config, spec, known))  # before libraries are loaded: what it took is free again by then
    system = f"{platform.python_version()}, {cores()} cores, {platform.system()} {platform.machine()}"
    return (
        Finding("Python", OK, system),
        *(_gpu(config) if config.engine is None else [_package("Ray", "ray")]),  # whose nodes have GPUs of their own
        _package("PyAV", "av"),
        _package("open_clip", "open_clip_torch", module="open_clip", probe="__init__.py"),
        weights,
        *work,
    )


def _package(
    name: str, *distributions: str, module: str | None = None, without: str | None = None, probe: str | None = None
) -> Finding:
    """A package by the name of its distribution; of several, which bring the same module, one may be installed.

    With a `probe`, a file of the package, it is imported only if that or one that it requires is not as it should be:
    torch and open_clip take seconds.
    """
    optional, lacking, wanted = len(distributions) > 1, MISSING if without is None else NOTE, distributions[0]
    if optional:
        from gpupeak.kernels.compile import gpu_extra  # imports torch

        wanted = f"'{gpu_extra()}'"
    there: dict[str, str] = {}
    for each in distributions:
        with suppress(PackageNotFoundError):
            there[each] = version(each)
    if len(there) > 1:
        advice = f"pip uninstall {' '.join(there)}; then pip install {wanted}"
        return Finding(name, lacking, f"{' and '.join(there)} overwrite each other", advice)
    try:
        if probe is None or not _is_sound(distributions[0], module or distributions[0], probe):
            import_module(module or distributions[0])
    except Exception as error:  # a broken installation may raise anything
        if short := out_of_memory(error):
            return Finding(name, lacking, f"cannot be loaded: {short}", "let it have more")
        advice = f"{without}; pip install {wanted}" if without else f"pip install {wanted}"
        return Finding(name, lacking, f"cannot be imported: {_line(error)}", advice)
    told = ", ".join(f"{each} {told}" if optional else told for each, told in there.items())
    return Finding(name, OK, told or "there, of unknown version")


def _is_sound(distribution: str, module: str, probe: str) -> bool:
    """Whether `probe` is there, a library loads, and all that the distribution requires is installed as it says."""
    from packaging.requirements import Requirement

    package = find_spec(module)
    if package is None or package.origin is None or not (file := Path(package.origin).parent / probe).is_file():
        return False
    open_, seen = [distribution], {distribution}
    try:
        if file.suffix == ".so":
            ctypes.CDLL(str(file))
        while open_:
            needs = [Requirement(each) for each in requires(open_.pop()) or ()]
            needs = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
            if not all(need.specifier.contains(version(need.name), prereleases=True) for need in needs):
                return False
            open_ += {need.name for need in needs} - seen
            seen |= {need.name for need in needs}
    except (OSError, PackageNotFoundError):
        return False
    return True


def _gpu(config: ExtractConfig) -> Iterator[Finding]:
    driver = cuda_version()
    if config.device == "cpu" or driver is None:  # torch, which takes seconds to import, would find the same
        yield _package("torch", "torch", probe="lib/libtorch_cpu.so")
        if config.device == "cpu":
            yield Finding("device", OK, "on the CPU, as asked")
        elif config.device == "auto":
            yield Finding("device", NOTE, f"on the CPU: {_NO_DRIVER}", _SLOW)
        else:
            yield Finding("device", MISSING, f"--device {config.device}: {_NO_DRIVER}", _TAKES_CPU)
        if config.decoder not in ("auto", "cpu"):
            yield Finding("NVDEC", MISSING, f"--decoder {config.decoder} decodes into a GPU's memory", _TAKES_WHAT)
        return
    yield _package("torch", "torch")
    try:
        import torch

        from gpupeak.decode.nvdec import nvdec_abilities
        from gpupeak.lines.build import choose_decoder, choose_device

        chosen = [choose_device(each) for each in config.device.split(",")]
    except GpupeakError as error:
        yield Finding("device", MISSING, _line(error), _TAKES_CPU)
        return
    except Exception as error:
        yield Finding("device", MISSING, f"cannot be chosen: {out_of_memory(error) or _line(error)}", "mend that first")
        return
    device, why = chosen[0][0], ", ".join(told for _, told in chosen)
    on_gpu = device.type == "cuda"
    if on_gpu:
        has = torch.cuda.get_device_properties(device.index)
        why += f", {has.total_memory / 2**30:.0f} GiB, compute capability {has.major}.{has.minor}"
    yield Finding("device", OK, why) if on_gpu else Finding("device", NOTE, why, _SLOW)
    yield _driver(driver, needed=on_gpu)
    decodes = nvdec_abilities(device.index or 0)
    try:
        choose_decoder(config.decoder, device, decodes)
    except GpupeakError as error:
        yield Finding("NVDEC", MISSING, _line(error), _TAKES_WHAT)
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


def _driver(has: tuple[int, int], needed: bool) -> Finding:
    """The driver's CUDA against torch's: an older driver runs no kernel of a newer torch."""
    import torch

    from gpupeak.kernels.compile import gpu_extra

    built = torch.version.cuda
    if reason := too_old(built):
        return Finding("driver", MISSING if needed else NOTE, *reason)
    torch_has = f"torch is built for CUDA {built}" if built else "torch is built without CUDA"
    return Finding("driver", OK, f"takes CUDA up to {has[0]}.{has[1]}; {torch_has}: '{gpu_extra()}' fits")


def _weights(config: ExtractConfig) -> tuple[Finding, EncoderSpec, WeightsId | None]:
    spec = CLIP_VIT_LARGE
    try:
        spec = encoder_spec(config.encoder)
        found = identify(spec, config.weights)
        if found.seed is not None:
            return Finding("weights", NOTE, *meaningless(found.source)), spec, found
        if not found.files and (file := _fetched(spec, str(found.tag))) is not None:
            found = replace(found, files=(file,))
        if not found.files:
            advice = "the first run fetches them (1.7 GB for ViT-L/14); without network, --weights DIRECTORY"
            return Finding("weights", NOTE, f"{found.source}: not fetched yet", advice), spec, found
        told = _tensors(spec, found)
    except UsageError as error:
        return Finding("weights", MISSING, _line(error), "--weights says where they are"), spec, None
    size = sum(file.stat().st_size for file in found.files)
    digest = f"SHA-256 {found.sha256}" if found.sha256 else "fetched by another program"
    whose = _KNOWN.get(found.sha256 or "", "")
    return Finding("weights", OK, f"{found.files[0]}, {sized(size)}, {told}{digest}{whose}"), spec, found


def _fetched(spec: EncoderSpec, tag: str) -> Path | None:
    """The file of a tag that was fetched before, None if the hub has it. Raises WeightsError if neither is so."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    repository, names = _OPENAI, [*_NAMES]
    if (spec.model, tag) != (CLIP_VIT_LARGE.model, CLIP_VIT_LARGE.tag):
        from gpupeak.encode.openclip import known_tag

        repository, _, name = known_tag(spec, tag)["hf_hub"].rpartition("/")
        names = [name] if name else names
    for each in names:
        if isinstance(file := try_to_load_from_cache(repository, each), str):
            return Path(file)
    try:
        HfApi().model_info(repository, timeout=_HUB_SECONDS)
    except Exception as error:  # of whatever HTTP client the hub uses
        raise WeightsError(
            f"{tag}: not fetched yet, and {repository} of the Hugging Face hub cannot be reached: {_line(error)[:100]}"
            "; docs/weights.md shows other ways"
        ) from error
    return None


def _tensors(spec: EncoderSpec, found: WeightsId) -> str:
    """How many tensors the image tower is made of, where that can be told without torch. Raises WeightsError."""
    if spec.tower is None or any(file.suffix != ".safetensors" for file in found.files):
        return ""
    from safetensors import safe_open

    with fitting(spec, found):
        names: list[str] = []
        for file in found.files:
            with explained(file.name), safe_open(file, framework="numpy") as opened:
                names += opened.keys()
        shape = tower_shape(spec.tower, found)
        parts = fit(spec, found, names, parameters(shape), shape.family.activation == "quick_gelu")
    return f"{sum(map(len, parts.values()))} tensors of the image tower as expected, "


def _work(config: ExtractConfig, spec: EncoderSpec, weights: WeightsId | None) -> Iterator[Finding]:
    """The datasets, their action units and the output, as `extract` looks at them before it begins."""
    corpora: tuple[Corpus, ...] = ()
    jobs: list[Job] = []
    try:
        corpora = resolve(config)
        yield Finding("datasets", OK, ", ".join(corpus.name for corpus in corpora))
    except UsageError as error:
        yield Finding("datasets", MISSING, _line(error))
    for corpus in corpora:
        refuse_excess(config, corpus.rule.n, spec.size, len(corpora))
    if corpora and weights is not None:
        try:
            with copies_below(place(config.output_root)) as copies:
                try:
                    jobs = prepare(config, spec, weights, copies, look=False)
                except UsageError:  # unless it is done already
                    jobs = prepare(config, spec, weights, copies)
        except GpupeakError as error:
            names: dict[type, str] = {AuError: "action units", LabelError: "samples"}
            yield Finding(names.get(type(error), "output"), MISSING, _line(error))
            return
    yield _output(place(config.output_root), jobs, spec.dim)


def _output(root: Place, jobs: Sequence[Job], dim: int) -> Finding:
    if isinstance(root, Url):
        return Finding("output", OK, f"{root}: in a store, where room is not looked for")
    elsewhere = "name another place with --output-root"
    for home in (root, *(job.directory.path for job in jobs)):
        there = next(path for path in (home.absolute(), *home.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            return Finding("output", MISSING, f"{there}: cannot be written to", elsewhere)
    samples = sum(sample.video is not None for job in jobs for sample in job.pending)
    need = sum(job.bytes_to_write(dim) for job in jobs)
    free = shutil.disk_usage(there).free
    to_write = f", {counted(samples, 'sample')} to write: {sized(need)}" if jobs else ""
    found = f"{root.absolute()}: {sized(free)} free{to_write}"
    if free < need + _SPARE:
        return Finding("output", MISSING, found, f"make room, or {elsewhere}")
    return Finding("output", OK, found)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
