"""Where is a sample's emotional peak? One module a producer of action-unit files, and one table that lists them."""

from gpupeak.peaks.reading import Curve, read_curve, read_peak
from gpupeak.peaks.sources import PEAK_SOURCES

__all__ = ["PEAK_SOURCES", "Curve", "read_curve", "read_peak"]
