"""`gpupeak pack` and `gpupeak unpack`."""

from collections.abc import Callable
from pathlib import Path

from gpupeak.cli.options import JSON, with_settings
from gpupeak.cli.output import Output, print_json
from gpupeak.cli.progress import watching
from gpupeak.config import ExtractConfig
from gpupeak.corpora.table import read_table
from gpupeak.errors import ConfigError, counted
from gpupeak.storage import places
from gpupeak.tally import Watch


@with_settings()
def pack(config: ExtractConfig, as_json: bool = JSON) -> int:
    """Pack each dataset's .npy files into one file beside them, for training loops: gpupeak.FeatureStore maps it.

    DATASETS are directories of the output root; none for all that are there. The .npy files stay.
    """
    from gpupeak.features.packs import pack as pack_features

    def work(directory: Path, n: int, watch: Watch) -> tuple[str, int]:
        file, count = pack_features(directory, n, watch)
        return f"{counted(count, 'sample')} packed into {file}", count

    return _each(config, as_json, work)


@with_settings()
def unpack(config: ExtractConfig, as_json: bool = JSON) -> int:
    """Write what pack packed as .npy files again, those that are not there.

    DATASETS are directories of the output root; none for all that are there.
    """
    from gpupeak.features.packs import unpack as unpack_features

    def work(directory: Path, n: int, watch: Watch) -> tuple[str, int]:
        written, count = unpack_features(directory, n, watch)
        there = f", {count - written} already there" if written < count else ""
        return f"{written} of {counted(count, 'sample')} written to {directory}{there}", written

    return _each(config, as_json, work)


def _each(config: ExtractConfig, as_json: bool, work: Callable[[Path, int, Watch], tuple[str, int]]) -> int:
    from gpupeak.features.packs import FeatureStore

    table = read_table(config.config_file)

    def store(name: str) -> FeatureStore:
        sampling = config.sampling or table.said(name, "sampling") or "emotion_peak"
        n = config.n_frms or table.said(name, "n_frms") or 8
        return FeatureStore(config.output_root, config.encoder, sampling, n, config.stream)

    counts: dict[str, int] = {}
    every = store("")
    names = config.datasets or sorted(name for name in places.names(every.root) if name in store(name))
    if not names:
        raise ConfigError(f"{every.root}: no dataset with features at {every.directory('*').relative_to(every.root)}")
    for name in names:
        with watching(Output(stderr=True), quiet=as_json) as watch:
            told, counts[name] = work(store(name).directory(name), store(name).n, watch)
        if not as_json:
            Output().say(f"{name}: {told}")
    if as_json:
        print_json(0, datasets=counts)
    return 0
