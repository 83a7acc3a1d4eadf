"""A run as a picture: operations a second, latencies, and the faults as bands behind them. SVG, written by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from imcore.testkit.checkers.liveness import MS, percentile
from imcore.testkit.checkers.run import NEVER, SECOND, Run

WIDTH, LEFT, RIGHT, TOP, PANEL, GAP = 1000, 60, 15, 40, 150, 45
BINS_MAX: Final = 300
NAME_MAX: Final = 28  # of a fault, written down its band
OK, UNKNOWN, DELIVERED, HALF, MOST = "#2b7a3d", "#c0392b", "#7aa7d9", "#5b6c7d", "#d98c1f"
BANDS: Final = ("#f6d5d0", "#d9e7f7", "#f7eccb", "#dcefdc", "#e8dcf3", "#dfe3e6")


def picture(run: Run) -> str:
    """The picture, as a whole SVG document."""
    seconds = max((run.ended - run.began) / SECOND, 0.001)
    bin_s = max(1.0, seconds / BINS_MAX)
    bins = int(seconds / bin_s) + 1
    ok, unknown, delivered = [0.0] * bins, [0.0] * bins, [0.0] * bins
    waits: defaultdict[int, list[float]] = defaultdict(list)

    def bin_of(t: int) -> int:
        return min(bins - 1, max(0, int((t - run.began) / SECOND / bin_s)))

    for tries in run.sends.values():
        for one in tries:
            at = bin_of(min(one.ended, run.ended))
            if one.outcome == "ok":
                ok[at] += 1 / bin_s
                waits[at].append((one.ended - one.began) / MS)
            elif one.outcome == "info":
                unknown[at] += 1 / bin_s
    for visit in run.visits.values():
        for t, _ in visit.delivered:
            delivered[bin_of(t)] += 1 / bin_s
    for each in waits.values():
        each.sort()
    half = [percentile(waits[n], 0.5) if n in waits else None for n in range(bins)]
    most = [percentile(waits[n], 0.99) if n in waits else None for n in range(bins)]
    height = TOP + 3 * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *_bands(run, seconds, height),
        *_panel(0, "sends a second", seconds, bin_s, [(OK, "acknowledged", ok), (UNKNOWN, "unknown", unknown)]),
        *_panel(1, "deliveries a second", seconds, bin_s, [(DELIVERED, "delivered", delivered)]),
        *_panel(2, "send to ack, ms", seconds, bin_s, [(HALF, "half within", half), (MOST, "99 % within", most)]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(at_s: float, seconds: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at_s / seconds


def _bands(run: Run, seconds: float, height: int) -> list[str]:
    names = sorted({window.fault.name for window in run.windows})
    parts = []
    for window in run.windows:
        colour = BANDS[names.index(window.fault.name) % len(BANDS)]
        first = (window.began - run.began) / SECOND
        last = seconds if window.ended == NEVER else (window.ended - run.began) / SECOND
        x, width = _x(first, seconds), max(1.0, _x(last, seconds) - _x(first, seconds))
        told = f"{window.fault.name} {window.fault.target}".strip()
        parts.append(
            f'<rect class="fault" x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{height - GAP - TOP}" fill="{colour}"'
            f" data-fault={quoteattr(told)}><title>{escape(told)}, {first:.1f} to {last:.1f} s</title></rect>"
        )
        # Down the band: many faults in a long run stand closer than their names are wide.
        short = told if len(told) <= NAME_MAX else f"{told[: NAME_MAX - 1]}…"
        place = f"translate({x + width / 2 - 3:.1f} {TOP + 2}) rotate(90)"
        parts.append(f'<text font-size="9" fill="#555" transform="{place}">{escape(short)}</text>')
    for name, t in run.phases.items():
        x = _x((t - run.began) / SECOND, seconds)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - GAP}" stroke="#999" stroke-dasharray="3 3"/>'
        )
        parts.append(
            f'<text x="{x - 2:.1f}" y="{height - GAP + 26}" fill="#777" text-anchor="end">{escape(name)}</text>'
        )
    return parts


def _panel(
    n: int,
    title: str,
    seconds: float,
    bin_s: float,
    series: Sequence[tuple[str, str, Sequence[float | None]]],
) -> list[str]:
    top = TOP + n * (PANEL + GAP)
    bottom = top + PANEL
    high = max((value for _, _, values in series for value in values if value is not None), default=0.0) or 1.0
    parts = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}" stroke="#444"/>',
        f'<text x="{LEFT - 6}" y="{top + 8}" text-anchor="end">{high:,.0f}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{LEFT}" y="{bottom + 14}">0 s</text>',
        f'<text x="{WIDTH - RIGHT}" y="{bottom + 14}" text-anchor="end">{seconds:,.0f} s</text>',
    ]
    words = "  ".join(f'<tspan fill="{colour}">{name}</tspan>' for colour, name, _ in series)
    parts.append(f'<text x="{LEFT}" y="{top - 4}">{title}: {words}</text>')
    for colour, _, values in series:
        pieces: list[list[str]] = [[]]
        for at, value in enumerate(values):
            if value is None:
                pieces.append([])
            else:
                x = _x(min(seconds, (at + 0.5) * bin_s), seconds)
                pieces[-1].append(f"{x:.1f},{bottom - PANEL * 0.88 * value / high:.1f}")
        for piece in pieces:
            if len(piece) == 1:
                x_text, _, y_text = piece[0].partition(",")
                parts.append(f'<circle cx="{x_text}" cy="{y_text}" r="1.5" fill="{colour}"/>')
            elif piece:
                parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.3" points="{" ".join(piece)}"/>')
    return parts
