"""A video made anew of just the packets that some frames need, for a decoder that reads it from start to end.

The packets are copied, not coded anew, into Matroska in memory, whose timestamps are their order of presentation.
Pictures have their coded size: what of it is not shown is for the reader to cut off. So all videos of one coded size
look alike to a decoder that is used again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from struct import pack
from typing import NamedTuple, TypeAlias

from gpupeak.video.container import MAX_SIDE, Clip
from gpupeak.video.nal import KINDS, Bits, Unit, configured, read_cropping, uncropped, units

MAX_BYTES = 64 << 20  # of packets, which are held in memory and sent between processes
UNTIMED, NO_FRAMES = "timestamps do not tell the frames", "packets that are no frames"
CHANGING = "parameter sets that change"

_MAX_HEADER = 4096  # bytes of a parameter set, a codec's configuration or an MPEG-4 header
_MAX_LATE = 7  # DALI puts 8 pictures at a time in order
_BLOCK = 16  # pixels: sizes are coded in multiples
_CLUSTER = 1 << 14  # packets in one of Matroska's, whose times are 16 bits

Size: TypeAlias = tuple[int, int]
Payload: TypeAlias = list[Unit]
"""The pieces of a packet, in turn: parts of the clip's packets are copied once, into what is made of them."""


class Unsafe(Exception):
    """A video cannot be made anew so that a decoder is sure to make the same of it; the text is one of a few."""


class Remade(NamedTuple):
    """Some frames of a video are decoded from it as from the whole, bit for bit.

    Attributes:
        data: a Matroska file of one stream, each packet of which is one picture of size `coded`.
        ordinals: for each of the frames, ascending, its number in this file.
        pictures: how many there are. The last one is the first once more: where it does not look the same, some picture
            was not delivered, and those after it are not what their numbers say.
        coded, shown: width and height of the pictures, and of the part at their top left that is shown.
    """

    data: bytes
    ordinals: tuple[int, ...]
    pictures: int
    coded: Size
    shown: Size


def remake(clip: Clip, indices: Iterable[int]) -> Remade:
    """Make the video that holds frames `indices` of a clip of H.264, HEVC, MPEG-4 part 2, VP8 or VP9, nothing decoded.
    Raises Unsafe."""
    gops, wanted = clip.gops, sorted(set(indices))
    if not clip.timed:
        raise Unsafe(UNTIMED)
    numbers = gops.joined(wanted)
    if not clip.changes.isdisjoint(numbers):
        raise Unsafe(CHANGING)
    if numbers[0] not in gops.fresh:
        raise Unsafe("no IDR picture or key frame to start at" if numbers[0] in gops.starts else NO_FRAMES)
    pts = [gops.pts[number] for number in numbers]
    place = {each: ordinal for ordinal, each in enumerate(sorted(pts))}
    late = [number - place[each] for number, each in enumerate(pts)]
    if len(place) < len(pts) or max(late) > _MAX_LATE or min(late) <= -_CLUSTER:
        raise Unsafe(UNTIMED)
    name, kind = _SYNTAX[clip.codec]
    try:
        # Its parameters are in the clip's first packet, which may not be one of the video's.
        syntax = kind(clip, next(map(bytes, clip.read([0])), b""))
        packets = _read(clip, numbers)
        payloads = [*map(syntax.rewritten, packets), syntax.again(packets[0])]
        header, coded, shown = syntax.header()
    except ValueError:
        raise Unsafe("parameter sets that cannot be read") from None
    payloads[0].insert(0, header)
    data = _matroska(name, header, coded, payloads, [*(place[each] for each in pts), len(pts)])
    return Remade(data, tuple(place[clip.pts(index)] for index in wanted), len(payloads), coded, shown)


def _read(clip: Clip, numbers: list[int]) -> list[memoryview]:
    packets, size = list[memoryview](), 0
    for packet in clip.read(numbers):
        size += packet.size
        if size > MAX_BYTES:
            raise Unsafe(f"larger than {MAX_BYTES >> 20} MiB")
        packets.append(memoryview(packet))
    if len(packets) < len(numbers):
        raise Unsafe(NO_FRAMES)  # the file was read once more, and has changed
    return packets


class _Syntax:
    """How the packets of a codec are written; of a clip whose `first` packet is this. A ValueError is that of a
    parameter set."""

    def __init__(self, clip: Clip, first: bytes) -> None:
        self._shown = clip.width, clip.height

    def rewritten(self, data: memoryview) -> Payload:
        raise NotImplementedError

    def again(self, data: memoryview) -> Payload:
        """The first packet of the video, as its last."""
        return self.rewritten(data)

    def header(self) -> tuple[bytes, Size, Size]:
        """What goes before the first packet, and the sizes, coded and shown, once all packets are rewritten."""
        return b"", in_blocks(self._shown), self._shown


class _Nals(_Syntax):
    """H.264 and HEVC, by start codes (Annex B); their parameter sets, which may not change, go before the first."""

    def __init__(self, clip: Clip, first: bytes) -> None:
        super().__init__(clip, first)
        self._hevc, self._kinds = clip.codec == "hevc", KINDS[clip.codec]
        self._sets: dict[tuple[int, int], bytes] = {}
        self._length, given = configured(clip.decoder.extradata or b"", self._hevc)
        self._pictures(given)
        self.rewritten(first)

    def rewritten(self, data: Unit) -> Payload:
        return self._pictures(units(data, self._length))

    def again(self, data: memoryview) -> Payload:
        pieces = self.rewritten(data)
        if not self._hevc:  # an access unit delimiter: else it might be more of the same IDR picture
            return [_START_CODE, b"\x09\xf0", *pieces]
        # After an end of sequence: else a CRA picture (21) would have its place in the order of the others. There, it
        # has a decoder drop those that it has not put out; a BLA picture (18) does not.
        entered = [b"\x24" + bytes(piece[1:]) if piece[0] == 21 << 1 else piece for piece in pieces]
        return [_START_CODE, b"\x48\1", *entered]

    def header(self) -> tuple[bytes, Size, Size]:
        key = self._kinds.sequence, 0
        cropping = read_cropping(self._sets.get(key, b""), self._hevc)
        coded = cropping.width, cropping.height
        shown = coded[0] - cropping.right, coded[1] - cropping.bottom
        if min(shown) <= 0 or max(coded) > MAX_SIDE:
            raise ValueError(f"{shown} of {coded}")
        if cropping.left or cropping.top:
            raise Unsafe("pictures cropped at the left or top")
        # libav's H.264 decoder crops to the container's size instead, if it is in the same blocks.
        width, height = self._shown
        if not self._hevc and in_blocks(self._shown) == in_blocks(shown) and width <= shown[0] and height <= shown[1]:
            shown = width, height
        self._sets[key] = uncropped(self._sets[key], self._kinds.header, cropping)
        return b"".join(_START_CODE + unit for _, unit in sorted(self._sets.items())), coded, shown

    def _pictures(self, units: Iterable[Unit]) -> Payload:
        """Those that hold or describe pictures; parameter sets are kept aside, layers and padding left out."""
        pieces: Payload = []
        for unit in units:
            if not unit:
                raise Unsafe(NO_FRAMES)
            kind = self._kinds.of(unit)
            if self._hevc and (unit[0] & 1 or bytes(unit[1:2]) > b"\7"):
                continue  # nuh_layer_id
            if kind in self._kinds.pictures:
                pieces += _START_CODE, unit
            elif kind in self._kinds.parameter_sets:
                self._parameter_set(kind, bytes(unit).rstrip(b"\0"))
        return pieces

    def _parameter_set(self, kind: int, unit: bytes) -> None:
        if len(unit) > _MAX_HEADER:
            raise ValueError(f"{len(unit)} bytes")
        # Of picture parameter sets there may be several.
        number = Bits(unit[self._kinds.header :][:8]).ue() if kind == self._kinds.picture else 0
        if self._sets.setdefault((kind, number), unit) != unit:
            raise Unsafe(CHANGING)


_START_CODE = b"\0\0\0\1"


class _Mpeg4(_Syntax):
    """MPEG-4 part 2: the size is in the header of the video object layer, which may come with every key frame."""

    def __init__(self, clip: Clip, first: bytes) -> None:
        super().__init__(clip, first)
        self._layer = b""
        # libav picks its IDCT and workarounds by the encoder's name, which only the first packet may tell.
        head = first[:_MAX_HEADER].partition(_VOP)[0]
        known = b"" if _LAYER.search(head) else (clip.decoder.extradata or b"")[:_MAX_HEADER]
        self._header = _LAYER.sub(self._coded, known + head)

    def rewritten(self, data: memoryview) -> Payload:
        head, *picture = bytes(data).partition(_VOP)
        return [_LAYER.sub(self._coded, head), *picture]

    def header(self) -> tuple[bytes, Size, Size]:
        if not self._layer:
            raise ValueError("there is none")
        return self._header, in_blocks(self._shown), self._shown

    def _coded(self, found: re.Match[bytes]) -> bytes:
        layer = found[1]
        if self._layer not in (b"", layer):
            raise Unsafe(CHANGING)
        self._layer = layer
        bits = Bits(layer[:_MAX_HEADER])
        _skip_to_size(bits)
        start = bits.at
        self._shown = bits.u(13), bits.u(14) & 0x1FFF  # after a marker
        width, height = in_blocks(self._shown)
        if min(self._shown) == 0 or max(width, height) > 0x1FFF or len(layer) > _MAX_HEADER:
            raise ValueError(f"{self._shown}")
        text = f"{bits.text[:start]}{width:013b}{bits.text[start + 13]}{height:013b}{bits.text[start + 27 :]}"
        return found[0][:4] + int(text, 2).to_bytes(len(layer), "big")


_VOP = b"\0\0\1\xb6"
_LAYER = re.compile(b"(?s)\0\0\1[ -/](.*?)(?=\0\0\1|\\Z)")  # start codes 0x20 to 0x2F


def _skip_to_size(bits: Bits) -> None:
    """By ISO/IEC 14496-2, 6.2.3; ValueError where the layer is not rectangular."""
    bits.u(1 + 8)
    bits.u(7 * bits.u(1))  # is_object_layer_identifier
    if bits.u(4) == 15:  # an aspect ratio of its own
        bits.u(16)
    if bits.u(1):  # vol_control_parameters
        bits.u(3)
        bits.u(79 * bits.u(1))  # vbv_parameters
    if bits.u(2):  # video_object_layer_shape
        raise ValueError("not rectangular")
    bits.u(1)
    resolution = bits.u(16)
    bits.u(1)
    if bits.u(1):  # fixed_vop_rate
        bits.u(max(1, (resolution - 1).bit_length()))
    bits.u(1)


class _Vp8(_Syntax):
    """VP8: every key frame tells its size (RFC 6386, 9.1). A picture that is not shown would be taken for one."""

    def rewritten(self, data: memoryview) -> Payload:
        if not data[0] & 0x10:
            raise Unsafe(NO_FRAMES)
        if data[0] & 1:
            return [data]
        told = [int.from_bytes(data[at : at + 2], "little") for at in (6, 8)]
        if (told[0] & 0x3FFF, told[1] & 0x3FFF) != self._shown:
            raise Unsafe(CHANGING)
        sides = zip(told, in_blocks(self._shown), strict=True)  # the two bits above are how it is to be scaled
        return [data[:6], *((old & 0xC000 | new).to_bytes(2, "little") for old, new in sides), data[10:]]


class _Vp9(_Syntax):
    """VP9 of profile 0, left as it is: what lies beyond its edges depends on its size."""

    def rewritten(self, data: memoryview) -> Payload:
        # No superframe, show_existing_frame 0 and show_frame 1.
        if data[-1] & 0xE0 == 0xC0 or data[0] & 0b11111010 != 0b10000010:
            raise Unsafe(NO_FRAMES)
        if not data[0] & 0b100:
            width, height = (int.from_bytes(data[4:9], "big") >> shift & 0xFFFF for shift in (20, 4))
            if (width + 1, height + 1) != self._shown:
                raise Unsafe(CHANGING)
        return [data]

    def header(self) -> tuple[bytes, Size, Size]:
        return b"", self._shown, self._shown


_SYNTAX: dict[str, tuple[bytes, type[_Syntax]]] = {  # and what Matroska calls it
    "h264": (b"V_MPEG4/ISO/AVC", _Nals),
    "hevc": (b"V_MPEGH/ISO/HEVC", _Nals),
    "mpeg4": (b"V_MPEG4/ISO/ASP", _Mpeg4),
    "vp8": (b"V_VP8", _Vp8),
    "vp9": (b"V_VP9", _Vp9),
}


def in_blocks(size: Size) -> Size:
    """A size that is a multiple of 16 in both directions, as sizes are coded."""
    return -(-size[0] // _BLOCK) * _BLOCK, -(-size[1] // _BLOCK) * _BLOCK


def _matroska(name: bytes, header: bytes, size: Size, payloads: Sequence[Payload], places: Sequence[int]) -> bytes:
    """A file of one video stream (RFC 9559), whose time base is a picture."""
    video = _element("e0", *_number("b0", size[0]), *_number("ba", size[1]))  # PixelWidth, PixelHeight
    # Its number and UID, that it is a video, and without lacing.
    track = [*_number("d7", 1), *_number("73c5", 1), *_number("83", 1), *_number("9c", 0)]
    private = _element("63a2", header) if header else []
    entry = _element("ae", *track, *_element("86", name), *private, *video)
    parts = [*_element("1549a966", *_number("2ad7b1", 40_000_000)), *_element("1654ae6b", *entry)]
    for at in range(0, len(payloads), _CLUSTER):
        blocks = _number("e7", at)
        for number, payload in enumerate(payloads[at : at + _CLUSTER], at):
            head = pack(">BhB", 0x81, places[number] - at, 0 if number else 0x80)  # track, time, whether a key frame
            blocks += _element("a3", head, *payload)
        parts += _element("1f43b675", *blocks)
    return b"".join([*_element("1a45dfa3", *_element("4282", b"matroska")), *_element("18538067", *parts)])


def _element(code: str, *content: Unit) -> Payload:
    return [bytes.fromhex(code) + (sum(map(len, content)) | 1 << 56).to_bytes(8, "big"), *content]


def _number(code: str, value: int) -> Payload:
    return _element(code, value.to_bytes(8, "big"))
