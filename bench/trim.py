"""What does NVDEC have to be given of a video, if only some of its frames are wanted?

DALI takes whole files. What bounds the gain is the share of the packets that the wanted frames can do without:
of one long GOP, its end and its unreferenced B frames; of many GOPs, whole ones. The packets are copied, not coded
anew, into Matroska in memory, whose timestamps say nothing but their order of presentation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from record import Row, beside, cores

from gpupeak.decode.worker import Planned, prepare
from gpupeak.storage.places import local
from gpupeak.types import Sample
from gpupeak.video.bitstream import Syntax
from gpupeak.video.container import Clip, open_clip

if TYPE_CHECKING:
    from gpupeak.decode.dali import Encoded

__all__ = ["Trimmed", "Trimming", "trimmed", "trimming", "verdict"]

_STEP = 40  # milliseconds, Matroska's unit, from frame to frame
# Every key frame makes a decoder forget what came before it; in H.264 only IDR pictures do, in HEVC they and others.
_FRESH = ("mpeg4", "vp8", "vp9")
_TAKEN = (*_FRESH, "h264", "hevc")


class Trimmed(NamedTuple):
    """A video with some of another's packets.

    Attributes:
        data: the file.
        ordinals: for each wanted frame, its number in this video, in presentation order.
        packets: how many there are, each one frame.
    """

    data: bytes
    ordinals: tuple[int, ...]
    packets: int


def trimmed(clip: Clip, indices: Sequence[int]) -> Trimmed | None:
    """The video that holds what frames `indices` need: they are decoded from it as from the whole, bit for bit.

    Decoding may go on from packet to packet, without a flush. Where a part of the video cannot be entered
    so (open GOPs, intra refresh, HEVC), all packets from the last place on where it can be are kept.

    None where NVDEC takes no video of this codec, or the packets are not the frames one by one, so that numbers in
    the new video would be guesses: not `timed`, hidden or discarded packets, a first frame that is no key frame,
    parameters that change outside of the packets.

    Args:
        indices: frames of the clip, at least one; in any order, repeats allowed.
    """
    if not (clip.codec in _TAKEN and clip.timed and clip.frames == clip.packets and clip.key_frames[:1] == [0]):
        return None
    numbers = _joined(clip, indices)
    pts = [packet.pts or 0 for packet in clip.read(numbers)]
    place = {each: ordinal for ordinal, each in enumerate(sorted(pts))}
    late = max(number - place[each] for number, each in enumerate(pts))
    memory = BytesIO()
    # Else timestamps are shifted until those of decoding, which Matroska does not even store, are not negative.
    with av.open(memory, "w", format="matroska", options={"avoid_negative_ts": "disabled"}) as container:
        stream: VideoStream | None = None
        for number, packet in enumerate(clip.read(numbers)):
            if packet.has_sidedata("new_extradata"):
                return None
            stream = stream or container.add_stream_from_template(packet.stream)
            copy: Packet[Any] = Packet(bytes(packet))  # the clip's own packets stay as they are
            copy.stream, copy.time_base, copy.is_keyframe = stream, Fraction(1, 1000), packet.is_keyframe
            copy.pts, copy.dts = _STEP * place[pts[number]], _STEP * (number - late)
            container.mux(copy)
    return Trimmed(memory.getvalue(), tuple(place[clip.pts(index)] for index in indices), len(pts))


def _joined(clip: Clip, indices: Sequence[int]) -> list[int]:
    """The numbers of the packets that decoding takes, if nothing is flushed in between."""
    syntax = Syntax(clip.codec, clip.decoder.extradata or b"")
    joined: list[int] = []
    for run in clip.runs(indices):
        (first,) = clip.read(run[:1])
        # By the picture's own word, not the container's: that calls more than IDR pictures key frames.
        idr = clip.codec == "h264" and syntax.read(memoryview(first), key=False).start
        fresh = idr or clip.codec in _FRESH
        joined += run if fresh else range(joined[-1] + 1 if joined else 0, run[-1] + 1)
    return joined


class Trimming(NamedTuple):
    """A sample's video as DALI is given it, whole and trimmed, and what that took.

    Attributes:
        whole, trimmed: the same, where it cannot be trimmed.
        packets: in the whole video.
        decoded: frames that have to be decoded of the whole video, from each wanted one's key frame on, and of
            the trimmed one: NVDEC is spared the difference.
        seconds: for trimming alone, the clip being open; median of three times.
    """

    whole: Encoded
    trimmed: Encoded
    packets: int
    decoded: tuple[int, int]
    seconds: float


def trimming(sample: Sample) -> Trimming | None:
    """Plan a sample and trim its video; None where NVDEC is not given it."""
    from gpupeak.decode.dali import encoded

    planned = prepare(sample, None)
    if not isinstance(planned, Planned) or planned.unfit or sample.video is None:
        return None
    whole, seconds, made = encoded(planned), list[float](), None
    with open_clip(local(sample.video)) as clip:
        to_decode = sum(run[-1] + 1 - run[0] for run in clip.runs(planned.plan.unique))
        for _ in range(3):
            began = time.perf_counter()
            made = trimmed(clip, planned.plan.unique)
            seconds.append(time.perf_counter() - began)
        if made is None:
            return Trimming(whole, whole, clip.packets, (to_decode, to_decode), 0.0)
        given = whole._replace(file=np.frombuffer(made.data, np.uint8), frames=made.ordinals)
        return Trimming(whole, given, clip.packets, (to_decode, made.packets), statistics.median(seconds))


def verdict(videos: Sequence[Trimming], seconds: Mapping[str, Sequence[float]]) -> Row:
    """Which wins, and what trimming costs the CPU; `seconds` from `alternated`, of the sides "whole" and "trimmed"."""
    row = beside("whole", seconds)
    ratio, rates = row["ratios"]["trimmed"], {side: len(videos) / row["seconds"][side]["median_s"] for side in seconds}
    wins = "trimmed" if ratio["most"] < 1 else "whole" if ratio["least"] > 1 else "neither"
    whole, left = (statistics.mean(each.decoded[side] for each in videos) for side in (0, 1))
    share = sum(len(each.trimmed.file) for each in videos) / sum(len(each.whole.file) for each in videos)
    cost = statistics.mean(each.seconds for each in videos)
    says = f"{wins} wins: {rates['whole']:.1f} samples/s whole, {rates['trimmed']:.1f} trimmed; {100 * share:.0f} % of "
    says += f"bytes, {left:.1f} of {whole:.1f} frames to decode are left, for {1000 * cost:.1f} ms a sample on the CPU"
    return {
        **row,
        "wins": wins,
        "samples": len(videos),
        "left_whole": sum(each.trimmed is each.whole for each in videos),
        "samples_per_s": rates,
        "bytes_left": share,
        "packets_left": sum(each.decoded[1] for each in videos) / sum(each.packets for each in videos),
        "decoded_a_sample": {"whole": whole, "trimmed": left},
        "trim_s": cost,
        "trims_per_s": cores() / max(cost, 1e-9),  # on all cores of this machine, with nothing else to do
        "says": says,
    }
