"""Features to `.npy` files: each whole under its own name or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import zlib
from collections.abc import Generator, Iterable

import numpy as np
import numpy.typing as npt

from gpupeak.errors import WriteError
from gpupeak.features.npy import npy_header
from gpupeak.storage.atomic import temporary_name
from gpupeak.storage.places import local
from gpupeak.types import Failed, FeatureBatch, FramePlan, Saved

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
                        self._save(plan, rows)
                    except OSError as error:
                        if error.errno not in _OWN_FAULTS:
                            raise WriteError(f"{plan.sample.target}: cannot be written: {error.strerror}") from error
                        yield Failed(plan.sample, "write", f"file name refused: {error.strerror}", plan)
                    else:
                        yield Saved(plan, {**seconds, "write": time.perf_counter() - began}, zlib.crc32(rows.data))
            finally:
                batch.release()

    def _save(self, plan: FramePlan, rows: npt.NDArray[np.float32]) -> None:
        target = local(plan.sample.target)
        temporary = f"{target.parent}/{temporary_name()}"
        header = npy_header((rows.shape[0], rows.shape[1]))
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            try:
                written = os.writev(descriptor, (header, rows.data))
                if written != len(header) + rows.nbytes:  # a disk that fills up takes a part and says nothing
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if self._fsync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(temporary, target)  # noqa: PTH104 - one Path less a sample
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                os.unlink(temporary)  # noqa: PTH108
            raise
