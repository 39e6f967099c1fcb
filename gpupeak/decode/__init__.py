"""From a frame plan to pixels: on the CPU by libav, on NVDEC by DALI."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpupeak.decode.libav import decode_frames

__all__ = ["decode_frames"]


def __getattr__(name: str) -> Any:
    """Resolve it when it is first used: what is asked of the driver needs no PyAV."""
    if name != "decode_frames":
        raise AttributeError(f"module 'gpupeak.decode' has no attribute {name!r}")
    from gpupeak.decode.libav import decode_frames

    return decode_frames
