"""A detector whose backbone is RAN-implicit (RAN, arXiv 2208.08562)."""

from zoo.models.detectors import Detector


class RanDetector(Detector):
    """A detector whose backbone is a ConvNeXt scaled to be deeper and thinner.

    Its layers, arguments and the names of its tensors are those of `Detector`.
    """
