"""The stage that shows on pictures what pruning and retraining do, and what structure does in their place."""

from dataclasses import dataclass
from typing import Literal

from orchestrator import Context, Inspection, StageError, fingerprint, stage
from orchestrator_storage import Table


@dataclass(frozen=True, kw_only=True)
class PanelsConfig:
    """What a recipe may set for the networks on pictures of characters.

    sparsities      shares of weights that are removed, each above 0 and below 1
    panel           which of `sparsities` the figure of dense, pruned and retrained shows
    scope           layer: the least magnitudes of each layer go; global: the least of all layers together
    repeats         runs with pictures, weights and batches of their own; intervals are over runs
    pictures        pictures of each character in each of the 15 fonts to learn from
    test_pictures   pictures of each character in each of the 6 fonts that are kept for the test
    channels        channels of the two hidden layers (of 11 x 11 and 4 x 4 places), the same in all three networks
    epochs          passes over the pictures that train the dense network
    learning_rate   step size at the start of that training; it falls along a half cosine to zero
    retrain_epochs  passes that the dense network is trained on for: after pruning, during gradual pruning, or neither
    retrain_learning_rate  step size at the start of training on
    batch           pictures a step
    """

    sparsities: tuple[float, ...] = (0.5, 0.7, 0.9, 0.95)
    panel: float = 0.7
    scope: Literal["layer", "global"] = "layer"
    repeats: int = 3
    pictures: int = 12
    test_pictures: int = 10
    channels: tuple[int, ...] = (8, 16)
    epochs: int = 15
    learning_rate: float = 8e-3
    retrain_epochs: int = 3
    retrain_learning_rate: float = 4e-3
    batch: int = 128

    def __post_init__(self) -> None:
        if not self.sparsities or not all(0 < sparsity < 1 for sparsity in self.sparsities):
            raise ValueError(f"sparsities are {list(self.sparsities)}; list at least one, each above 0 and below 1")
        if len(set(self.sparsities)) < len(self.sparsities):
            raise ValueError(f"sparsities are {list(self.sparsities)}; list every value once")
        if self.panel not in self.sparsities:
            raise ValueError(f"panel is {self.panel}; it must be one of sparsities, {list(self.sparsities)}")
        for name in ("repeats", "pictures", "test_pictures", "epochs", "retrain_epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if len(self.channels) != 2 or min(self.channels) < 1:
            raise ValueError(f"channels are {list(self.channels)}; give each of the two hidden layers at least one")
        for name in ("learning_rate", "retrain_learning_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it lies between 0 and 1")


def inspect_fonts(config: PanelsConfig) -> Inspection:  # noqa: ARG001 (every config draws with the same fonts)
    """Fingerprint the font files, which are what the pictures are drawn from."""
    from orchestrator_compress.errors import CompressionError
    from orchestrator_compress.vision.fonts import font_files

    try:
        return Inspection(fingerprint(font_files()))
    except CompressionError as error:
        raise StageError(str(error)) from error


@stage(
    "compress.panels",
    version="1",
    seeded=True,
    inspect=inspect_fonts,
    cites=["arXiv:2102.00554", "arXiv:1506.02626", "arXiv:1710.01878"],
)
def panels(ctx: Context, config: PanelsConfig) -> Table:
    """Train an MLP, a locally connected and a convolutional network on characters, prune each, and retrain it.

    All three have the same layers and differ in their weights: between all units, within neighbourhoods only, or shared
    by all places. So structure and pruning can be compared as ways to take parameters away. The table has a row for each
    network, phase (dense, pruned at once, retrained after that, pruned gradually while training on) and sparsity, with
    parameters, multiplications, and accuracy on fonts that no network has seen; published values of ResNet-50 stand
    beside. Nothing is wired and nothing is downloaded: the pictures are drawn with the fonts that matplotlib brings.
    """
    from orchestrator_compress.vision.run import panels_stage

    return panels_stage(ctx, config)
