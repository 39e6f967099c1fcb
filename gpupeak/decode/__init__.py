"""From a frame plan to pixels: on the CPU by libav, on NVDEC by DALI."""

from gpupeak.decode.libav import decode_frames

__all__ = ["decode_frames"]
