"""Features to `.npy` files, here or in a store: each whole under its own name or not there at all."""

from __future__ import annotations

import errno
import time
import zlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from gpupeak.errors import WriteError
from gpupeak.features.npy import npy_header
from gpupeak.storage import remote
from gpupeak.storage.atomic import replace_file
from gpupeak.types import Failed, FeatureBatch, FramePlan, Saved, Seconds, Url

_OWN_FAULTS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR)  # this sample's name, not the disk
_UPLOADS = 8  # of each of the line's two writers: 16 at once hide 50 ms a request up to 300 files/s
_WAITING = 4 * _UPLOADS


class NpyWriter:
    """Writes each sample's rows as a float32 C-order `.npy` file, widening on the way; into a store several at once.

    A kill at any moment leaves only whole files and temporaries, which the next run removes. Only `fsync` helps against
    power loss. Safe to run on several threads at once over one shared iterable of batches.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        self._fsync = fsync

    def write(self, batches: Iterable[FeatureBatch]) -> Generator[Saved | Failed]:
        """Yield one outcome a sample; release each batch when its last file is in place, or its rows are copied to be
        put into a store. Raises WriteError."""
        waiting: deque[Future[Saved | Failed]] = deque()
        threads = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="gpupeak-put")
        try:
            for batch in batches:
                try:
                    for plan, (start, stop), seconds in zip(batch.plans, batch.spans, batch.seconds, strict=True):
                        # Copies only what is not float32 in C order already: the fp16 of a GPU is widened here.
                        rows = np.ascontiguousarray(batch.features[start:stop], dtype=np.float32)
                        if isinstance(plan.sample.target, Url):
                            waiting.append(threads.submit(self._save, plan, rows.copy(), seconds))
                        else:
                            yield self._save(plan, rows, seconds)
                finally:
                    batch.release()
                while waiting and (len(waiting) > _WAITING or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)

    def _save(self, plan: FramePlan, rows: npt.NDArray[np.float32], seconds: Seconds) -> Saved | Failed:
        began, target = time.perf_counter(), plan.sample.target
        header = npy_header((rows.shape[0], rows.shape[1]))
        try:
            if isinstance(target, Url):
                remote.put(target, header + rows.tobytes())
            else:
                replace_file(target, (header, rows.data), fsync=self._fsync)
        except OSError as error:
            if error.errno not in _OWN_FAULTS:
                raise WriteError(f"{target}: cannot be written: {error.strerror}") from error
            return Failed(plan.sample, "write", f"file name refused: {error.strerror}", plan)
        return Saved(plan, {**seconds, "write": time.perf_counter() - began}, zlib.crc32(rows.data))
