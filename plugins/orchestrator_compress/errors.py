"""What can be wrong with the input of a compression, by name.

CompressionError (a ValueError)
|- GridError          bits, group size or scale that the layer cannot have
|- WeightError        weights that are not finite
|- CalibrationError   tokens or activations that cannot calibrate
|- SolveError         a system that only a fallback could solve, in strict mode
|- PruningError       a sparsity, pattern or mask that the layer cannot have
|- CheckpointError    a directory that is not what it says it is
`- ServingError       a layer or inputs that a runtime module cannot serve
"""

from __future__ import annotations


class CompressionError(ValueError):
    """Report a model, a setting or a file that cannot be compressed or read."""


class GridError(CompressionError):
    """Report bits, a group size or a scale that do not fit a layer."""


class WeightError(CompressionError):
    """Report weights that are NaN or infinite."""


class CalibrationError(CompressionError):
    """Report calibration tokens or activations that cannot be used."""


class SolveError(CompressionError):
    """Report a layer whose system needs a fallback that strict mode forbids."""


class PruningError(CompressionError):
    """Report a sparsity, a pattern or a mask that does not fit a layer."""


class CheckpointError(CompressionError):
    """Report a checkpoint that is truncated, mislabelled or of a foreign format."""


class ServingError(CompressionError):
    """Report a layer or inputs that the chosen runtime module cannot serve."""
