"""Features to `.npy` files: each whole under its own name or not there at all."""

from __future__ import annotations

import errno
import time
import zlib
from collections.abc import Generator, Iterable

import numpy as np

from gpupeak.errors import WriteError
from gpupeak.features.npy import npy_header
from gpupeak.storage.atomic import replace_file
from gpupeak.storage.places import local
from gpupeak.types import Failed, FeatureBatch, Saved

_OWN_FAULTS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR)  # this sample's name, not the disk


class NpyWriter:
    """Writes each sample's rows as a float32 C-order `.npy` file, widening on the way.

    A kill at any moment leaves only whole files and temporaries, which the next run removes. Only `fsync` helps against
    power loss. Safe to run on several threads at once over one shared iterable of batches.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        self._fsync = fsync

    def write(self, batches: Iterable[FeatureBatch]) -> Generator[Saved | Failed]:
        """Yield one outcome a sample; release each batch when its last file is in place. Raises WriteError."""
        for batch in batches:
            try:
                for plan, (start, stop), seconds in zip(batch.plans, batch.spans, batch.seconds, strict=True):
                    began = time.perf_counter()
                    # Copies only what is not float32 in C order already: the fp16 of a GPU is widened here.
                    rows = np.ascontiguousarray(batch.features[start:stop], dtype=np.float32)
                    try:
                        header = npy_header((rows.shape[0], rows.shape[1]))
                        replace_file(local(plan.sample.target), (header, rows.data), fsync=self._fsync)
                    except OSError as error:
                        if error.errno not in _OWN_FAULTS:
                            raise WriteError(f"{plan.sample.target}: cannot be written: {error.strerror}") from error
                        yield Failed(plan.sample, "write", f"file name refused: {error.strerror}", plan)
                    else:
                        yield Saved(plan, {**seconds, "write": time.perf_counter() - began}, zlib.crc32(rows.data))
            finally:
                batch.release()
