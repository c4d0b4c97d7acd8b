"""RAN-implicit: ConvNeXt, deeper and thinner at the same cost (RAN, arXiv 2208.08562)."""

from zoo.models.convnext import ConvNeXt


class RanImplicit(ConvNeXt):
    """A ConvNeXt whose depths and widths topology chose; see `zoo.nas.scaling`.

    Its blocks, arguments and the names of its tensors are ConvNeXt's.
    """
