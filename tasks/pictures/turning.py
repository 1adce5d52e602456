"""How the stored pixels became the upright picture, and where a place of the one lies in the other."""

from __future__ import annotations

from dataclasses import dataclass

FLIPS = {1: "", 2: "x", 3: "xy", 4: "y", 5: "t", 6: "tx", 7: "txy", 8: "ty"}
"""Orientation → what makes it upright: t transposes, then x and y mirror."""


@dataclass(frozen=True, slots=True)
class Turning:
    """orientation: EXIF's number of the stored pixels, 1 to 8. width, height: of the upright picture, pixels."""

    orientation: int
    width: int
    height: int

    @property
    def transposes(self) -> bool:
        """Whether rows became columns."""
        return "t" in FLIPS[self.orientation]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies upright; both as shares of width and height, 0 to 1."""
        for step in FLIPS[self.orientation]:
            x, y = {"t": (y, x), "x": (1 - x, y), "y": (x, 1 - y)}[step]
        return x, y

    def pixel(self, x: int, y: int) -> tuple[int, int]:
        """Where a pixel of the stored picture lies upright."""
        wide, high = (self.height, self.width) if self.transposes else (self.width, self.height)
        across, down = self.place((x + 0.5) / wide, (y + 0.5) / high)
        return int(across * self.width), int(down * self.height)

    def box(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Where a rectangle lies upright, as (left, top, width, height); all as shares, 0 to 1."""
        corners = self.place(left, top), self.place(left + width, top + height)
        xs, ys = sorted(x for x, _ in corners), sorted(y for _, y in corners)
        return xs[0], ys[0], xs[1] - xs[0], ys[1] - ys[0]
