"""Curves as SVG, written by hand: lines over time, axes with a few round numbers, a legend; on white and on black."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 860, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 110, 36, 40
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999")
"""Told apart by the colour-blind, too (after Paul Tol)."""
INK = "#808080"
TICKS = 6

Point = tuple[float, float | None]
"""A moment and a value; None breaks the line."""


def draw(title: str, unit_x: str, unit_y: str, curves: Mapping[str, Sequence[Point]]) -> str:
    """The picture. Both axes begin at 0: a flat curve looks flat, and a rising one is not made steep."""
    points = [point for curve in curves.values() for point in curve]
    last = max((at for at, _ in points), default=1.0) or 1.0
    most = max((value for _, value in points if value is not None), default=1.0) or 1.0
    step_x, step_y = _step(last), _step(most)
    top = step_y * -(-most // step_y)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(at: float, value: float) -> str:
        return f"{LEFT + width * at / last:.1f},{TOP + height * (1 - value / top):.1f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="{INK}">',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number in range(int(top / step_y) + 1):
        y = TOP + height * (1 - number * step_y / top)
        lines.append(
            f'<path d="M{LEFT} {y:.1f}h{width}" stroke="{INK}" stroke-opacity="0.3"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number * step_y:g}</text>'
        )
    for number in range(int(last / step_x) + 1):
        x = LEFT + width * number * step_x / last
        lines.append(f'<text x="{x:.1f}" y="{HEIGHT - 22}" text-anchor="middle">{number * step_x:g}</text>')
    lines.append(f'<text x="{LEFT + width / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(unit_x)}</text>')
    lines.append(f'<text x="6" y="{TOP - 6}">{escape(unit_y)}</text>')
    for number, (name, curve) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        for piece in _pieces(curve):
            path = " ".join(place(at, value) for at, value in piece)
            lines.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        y = TOP + 14 + 18 * number
        lines.append(
            f'<path d="M{WIDTH - RIGHT + 10} {y - 4}h18" stroke="{color}" stroke-width="3"/>'
            f'<text x="{WIDTH - RIGHT + 34}" y="{y}">{escape(name)}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _pieces(curve: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """The curve without its gaps."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for at, value in curve:
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((at, value))
    return [piece for piece in pieces if piece]


def _step(most: float) -> float:
    """A round number of which about TICKS fit."""
    rough = most / TICKS
    power = 10.0 ** _exponent(rough)
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def _exponent(value: float) -> int:
    exponent = 0
    while value >= 10:
        value, exponent = value / 10, exponent + 1
    while value < 1:
        value, exponent = value * 10, exponent - 1
    return exponent
