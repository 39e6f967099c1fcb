"""Where a sample's emotional peak is, read from its action-unit files."""

from gpupeak.peaks.reading import Curve, read_curve, read_peak

__all__ = ["Curve", "read_curve", "read_peak"]
