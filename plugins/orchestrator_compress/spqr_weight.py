"""What SpQR stores of a layer, what that stands for, and how many bits it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .bilevel import Bilevel, Levels
from .bitstream import pack_rows, unpack_rows
from .outliers import Outliers


@dataclass(frozen=True, kw_only=True, slots=True)
class SpQRWeight:
    """Hold a weight in solve order: codes uint8 [R, C], statistics by row and group [R, G], outliers, and the order.

    Statistics are `Levels` with a tile for each `bilevel.rows` rows, or float32 [R, G] without `bilevel`. The input
    at position p of the codes is input `order[p]` of the layer.
    """

    bits: int
    bilevel: Bilevel | None
    codes: Tensor
    scales: Levels | Tensor
    zeros: Levels | Tensor
    outliers: Outliers
    order: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs."""
        return int(self.codes.shape[0]), int(self.codes.shape[1])

    @property
    def groups(self) -> int:
        """Return the number of groups in a row."""
        return (self.scales.codes if isinstance(self.scales, Levels) else self.scales).shape[1]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weights [R, C] in the layer's own column order, computed in float32."""
        rows, columns = self.codes.shape
        scales, zeros = self._restored(self.scales), self._restored(self.zeros)
        codes = self.codes.float().view(rows, self.groups, -1)
        weight = ((codes - zeros.unsqueeze(2)) * scales.unsqueeze(2)).view(rows, columns)
        self.outliers.add_to(weight)
        restored = torch.empty_like(weight)
        restored[:, self.order] = weight
        return restored.to(dtype)

    def packed(self) -> dict[str, np.ndarray]:
        """Return the arrays that store the weight: bit streams of codes and statistics, outliers, column order."""
        arrays = {"codes": pack_rows(self.codes.cpu().numpy(), self.bits)}
        for name, statistic, width in self._statistics():
            if isinstance(statistic, Levels):
                arrays[f"{name}_codes"] = pack_rows(statistic.codes.cpu().numpy(), width)
                arrays[f"{name}_steps"] = statistic.steps.cpu().numpy()
                arrays[f"{name}_origins"] = statistic.origins.cpu().numpy()
            else:
                arrays[f"{name}s"] = statistic.cpu().numpy()
        arrays["outlier_offsets"] = self.outliers.offsets.cpu().numpy()
        arrays["outlier_positions"] = self.outliers.positions.cpu().numpy()
        arrays["outlier_residuals"] = self.outliers.residuals.cpu().numpy()
        arrays["order"] = self.order.to(torch.int32).cpu().numpy()
        return arrays

    @classmethod
    def unpacked(cls, arrays: Mapping[str, np.ndarray], bits: int, bilevel: Bilevel | None) -> SpQRWeight:
        """Read back what `packed` returned."""
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        columns = len(arrays["order"])
        return cls(
            bits=bits,
            bilevel=bilevel,
            codes=torch.from_numpy(unpack_rows(arrays["codes"], bits, columns)),
            scales=_statistic("scale", arrays, bilevel.scale_bits if bilevel else 0),
            zeros=_statistic("zero", arrays, bilevel.zero_bits if bilevel else 0),
            outliers=Outliers(
                offsets=tensors["outlier_offsets"],
                positions=tensors["outlier_positions"],
                residuals=tensors["outlier_residuals"],
            ),
            order=tensors["order"].long(),
        )

    def bits_measured(self) -> float:
        """Return the bits per weight of the packed arrays, row offsets, column order and padding included."""
        return 8 * sum(array.nbytes for array in self.packed().values()) / self.codes.numel()

    def bits_by_formula(self) -> float:
        """Return b + (b_s + b_z) / g + 64 / (g g2) + 32 rho: what the paper counts, without offsets and order."""
        size = self.codes.shape[1] // self.groups
        outlier_bits = 8 * (self.outliers.positions.element_size() + self.outliers.residuals.element_size())
        if self.bilevel is None:
            statistics = 64 / size
        else:
            own = self.bilevel.scale_bits + self.bilevel.zero_bits
            statistics = own / size + 64 / (size * self.bilevel.rows)
        return self.bits + statistics + outlier_bits * self.outliers.count / self.codes.numel()

    def _restored(self, statistic: Levels | Tensor) -> Tensor:
        if isinstance(statistic, Tensor):
            return statistic
        assert self.bilevel is not None
        return statistic.restored(self.bilevel.tiles([len(self.codes)]).to(self.codes.device))

    def _statistics(self) -> list[tuple[str, Levels | Tensor, int]]:
        widths = (self.bilevel.scale_bits, self.bilevel.zero_bits) if self.bilevel else (0, 0)
        return [("scale", self.scales, widths[0]), ("zero", self.zeros, widths[1])]


def _statistic(name: str, arrays: Mapping[str, np.ndarray], bits: int) -> Levels | Tensor:
    if not bits:
        return torch.from_numpy(arrays[f"{name}s"])
    steps = arrays[f"{name}_steps"]
    return Levels(
        codes=torch.from_numpy(unpack_rows(arrays[f"{name}_codes"], bits, steps.shape[1])),
        steps=torch.from_numpy(steps),
        origins=torch.from_numpy(arrays[f"{name}_origins"]),
    )
