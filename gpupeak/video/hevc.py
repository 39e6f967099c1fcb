"""What does HEVC's sequence parameter set say of its pictures' size? By ITU-T H.265, 7.3.2.2.1 and 7.3.3."""

from __future__ import annotations

from gpupeak.video.bits import Cropping, unescaped


def read_cropping(unit: bytes) -> Cropping:
    """Read the NAL unit of a sequence parameter set of 4:2:0; ValueError if it is damaged."""
    bits = unescaped(unit[2:])
    bits.u(4)
    layers = bits.u(3)  # sps_max_sub_layers_minus1
    bits.u(1 + 88 + 8)  # general profile, tier and level
    present = [(bits.u(1), bits.u(1)) for _ in range(layers)]
    bits.u(2 * (8 - layers) if layers else 0)
    for profile, level in present:
        bits.u(88 * profile + 8 * level)
    bits.ue()
    if bits.ue() != 1:  # chroma_format_idc
        raise ValueError("not 4:2:0")
    return bits.cropping(bits.ue(), bits.ue(), (2, 2))
