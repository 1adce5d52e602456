"""Curves as one SVG file: values at named steps, a line per series, readable on dark and on light paper.

It knows numbers and names; no library draws for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

Point = tuple[float, float]

WIDTH, HEIGHT = 800, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 170, 44, 40
APART = 6
"""Pixels between the marks of two series at one step, so that equal values are both seen."""
GAP = 0.5
"""Steps between the ladder and the values that stand alone."""
COLOURS = (
    ("#5f6368", "#a8adb3"),
    ("#0060a8", "#56b4e9"),
    ("#b04a00", "#f0a050"),
    ("#00705a", "#2fc99f"),
    ("#8a3f78", "#e19cc8"),
)
"""On light and on dark paper, after Okabe and Ito: told apart by people who see fewer colours. Shapes differ, too."""
SHAPES = (
    "M-4 -4H4V4H-4Z",
    "M0 -5A5 5 0 1 1 0 5A5 5 0 1 1 0 -5Z",
    "M0 -6L6 0L0 6L-6 0Z",
    "M0 -5.5L5.5 4.5H-5.5Z",
    "M0 5.5L5.5 -4.5H-5.5Z",
)
MOST = len(COLOURS)
"""Series that one picture can tell apart."""


def curves(title: str, ladder: Sequence[str], alone: Sequence[str], series: Mapping[str, Mapping[str, float]]) -> str:
    """The picture as text. series: name → step → value, at most MOST; where a step is missing nothing is drawn.

    Steps of `ladder` are joined by lines; those of `alone` stand beside them as points. Raises ValueError for more
    series than can be told apart.
    """
    if len(series) > MOST:
        raise ValueError(f"expected at most {MOST} series in one picture, got {len(series)}")
    places = _places(ladder, alone)
    values = [value for points in series.values() for step, value in points.items() if step in places]
    scale = _Scale(min(values, default=0.0), max(values, default=1.0))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><desc>{escape(_in_words(series))}</desc>",
        f"<style>{_style()}</style>",
        f'<text class="head" x="{LEFT}" y="24">{escape(title)}</text>',
        *(scale.line(tick) for tick in scale.ticks),
        *(_step_name(step, x) for step, x in places.items()),
    ]
    for n, (name, points) in enumerate(series.items()):
        aside = APART * (n - (len(series) - 1) / 2)
        at = {step: (x + aside, scale.y(points[step])) for step, x in places.items() if step in points}
        parts += [_series(n, [at[s] for s in ladder if s in at], list(at.values())), _legend(n, name)]
    return "\n".join([*parts, "</svg>\n"])


class _Scale:
    """The vertical axis: round ticks that hold all values."""

    def __init__(self, low: float, high: float) -> None:
        rough = max(high - low, 1e-3) / 4
        unit = 10.0 ** floor(log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
        first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
        self.ticks = [n * step for n in range(first, max(last, first + 1) + 1)]
        self._digits = max(0, ceil(-log10(step) + (0.4 if round(step / unit, 1) == 2.5 else 0)))

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def line(self, tick: float) -> str:
        y = f"{self.y(tick):.1f}"
        text = f'<text x="{LEFT - 10}" y="{y}" dy=".35em" text-anchor="end">{tick:.{self._digits}f}</text>'
        return f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>{text}'


def _places(ladder: Sequence[str], alone: Sequence[str]) -> dict[str, float]:
    """step → x."""
    steps = [*range(len(ladder)), *(len(ladder) + GAP + n for n in range(len(alone)))]
    width = (WIDTH - LEFT - RIGHT) / max(steps[-1] + 1, 1) if steps else 0.0
    return {name: LEFT + (step + 0.5) * width for name, step in zip([*ladder, *alone], steps, strict=True)}


def _series(n: int, joined: Sequence[Point], points: Sequence[Point]) -> str:
    line = "".join(f"{'L' if place else 'M'}{x:.1f} {y:.1f}" for place, (x, y) in enumerate(joined))
    path = f'<path class="line s{n}" d="{line}"/>' if len(joined) > 1 else ""
    return path + "".join(_mark(n, x, y) for x, y in points)


def _mark(n: int, x: float, y: float) -> str:
    return f'<path class="mark s{n}" d="{SHAPES[n]}" transform="translate({x:.1f} {y:.1f})"/>'


def _legend(n: int, name: str) -> str:
    x, y = WIDTH - RIGHT + 24, TOP + 12 + 24 * n
    return f'{_mark(n, x, y)}<text x="{x + 14}" y="{y}" dy=".35em">{escape(name)}</text>'


def _step_name(step: str, x: float) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 24}" text-anchor="middle">{escape(step.replace("_", " "))}</text>'


def _in_words(series: Mapping[str, Mapping[str, float]]) -> str:
    """For who cannot see the curves."""
    told = (f"{name}: {', '.join(f'{s} {v:.4g}' for s, v in points.items())}" for name, points in series.items())
    return "; ".join(told).replace("_", " ")


def _style() -> str:
    light = "".join(f".s{n}{{stroke:{a};fill:{a}}}" for n, (a, _) in enumerate(COLOURS))
    dark = "".join(f".s{n}{{stroke:{b};fill:{b}}}" for n, (_, b) in enumerate(COLOURS))
    return (
        "text{font:13px system-ui,sans-serif;fill:#3c4248}.head{font-size:15px;font-weight:600}"
        f".grid{{stroke:#d8dce0}}.line{{stroke-width:2}}{light}.line{{fill:none}}"
        f"@media(prefers-color-scheme:dark){{text{{fill:#c8cdd2}}.grid{{stroke:#3a4047}}{dark}.line{{fill:none}}}}"
    )
