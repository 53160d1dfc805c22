"""The funnel as a picture: inline SVG, widths by the logarithm of the number of candidates."""

from __future__ import annotations

import math

from markupsafe import Markup, escape

from sluice.report.funnel import TITLES, FunnelRow

_WIDTH, _ROW, _BAR = 1080, 52, 40
_CENTER, _LARGEST = 480, 480  # middle and greatest width of the bars
_RIGHT = 740  # where the reasons start
_LONGEST = 52  # characters that fit from there on
_TOP_COLOR, _END_COLOR = (37, 102, 168), (192, 138, 30)


def _width(n: int, largest: int) -> float:
    return 0.0 if n <= 0 else max(14.0, _LARGEST * math.log10(1 + n) / math.log10(1 + largest))


def _color(share: float) -> str:
    rgb = [round(a + (b - a) * share) for a, b in zip(_TOP_COLOR, _END_COLOR, strict=True)]
    return f"rgb({rgb[0]},{rgb[1]},{rgb[2]})"


def _reasons(row: FunnelRow, most: int = 2) -> str:
    """The commonest reasons in one line short enough for the picture."""
    common = sorted(row.reasons.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{n:,} {text if len(text) <= 34 else text[:33] + '…'}" for text, n in common[:most]]
    rest = sum(n for _, n in common[most:])
    line = " · ".join(words) + (f" · {rest:,} others" if rest else "")
    return _reasons(row, most - 1) if len(line) > _LONGEST and most > 1 else line


def draw_funnel(rows: list[FunnelRow], confirmed: int | None = None) -> Markup:
    """Draw what left each step, from what the generator drew to the confirmed crystals or the last step.

    Args:
        rows: of the funnel, rounds summed.
        confirmed: how many crystals DFT confirmed; None in a campaign without DFT.
    """
    stages = [("Drawn", rows[0].counts["made"], FunnelRow("drawn"))]
    stages += [(TITLES[row.step], row.counts["out"], row) for row in rows]
    if confirmed is not None:
        stages.append(("Confirmed", confirmed, FunnelRow("confirmed")))
    largest = max(1, *(n for _, n, _ in stages))
    height = _ROW * len(stages)
    parts = [
        f'<svg class="funnel" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'aria-label="Number of candidates after each step">'
    ]
    for k, (title, n, row) in enumerate(stages):
        y = k * _ROW
        wide = _width(n, largest)
        following = _width(stages[k + 1][1], largest) if k + 1 < len(stages) else wide
        color = _color(k / max(1, len(stages) - 1))
        left, right = _CENTER - wide / 2, _CENTER + wide / 2
        middle = y + _BAR / 2
        parts.append(f'<rect x="{left:.1f}" y="{y}" width="{wide:.1f}" height="{_BAR}" rx="5" fill="{color}"/>')
        if k + 1 < len(stages) and following:
            a, b = _CENTER - following / 2, _CENTER + following / 2
            parts.append(
                f'<polygon points="{left:.1f},{y + _BAR} {right:.1f},{y + _BAR} {b:.1f},{y + _ROW} {a:.1f},{y + _ROW}" '
                f'fill="{color}" opacity="0.16"/>'
            )
        label = f"{n:,}"
        inside = wide > 11 * len(label) + 12
        parts.append(
            f'<text x="{_CENTER if inside else right + 8:.1f}" y="{middle}" dy=".35em" class="n" '
            f'text-anchor="{"middle" if inside else "start"}" fill="{"#fff" if inside else "#17212b"}">{label}</text>'
        )
        parts.append(f'<text x="0" y="{middle}" dy=".35em" class="t">{escape(title)}</text>')
        gone = row.counts["rejected"] + row.counts["failed"] + row.counts["merged"]
        if gone:
            parts.append(f'<text x="{_RIGHT}" y="{middle - 8}" dy=".35em" class="g">− {gone:,}</text>')
            parts.append(f'<text x="{_RIGHT}" y="{middle + 9}" dy=".35em" class="r">{escape(_reasons(row))}</text>')
    parts.append("</svg>")
    return Markup("".join(parts))  # every text in it went through escape()
