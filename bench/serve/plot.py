"""The plot of docs/performance.md: answers per CPU second as multiples of nginx, drawn as SVG by hand."""

from __future__ import annotations

from html import escape

from bench.serve.figures import BASE, TITLES, Results, contenders_of, ratio

COLOURS = {
    "floor": "#9aa0a6",
    "nginx": "#4c9f70",
    "revocast": "#1f5fa8",
    "cfssl": "#c77f2b",
    "openssl": "#a8473f",
    "openssl-multi": "#a8473f",
}
LEFT, RIGHT, WIDTH = 230, 60, 860
BAR, GAP, GROUP_GAP, TOP = 14, 3, 18, 50


def draw(results: Results) -> str:
    """Return the SVG: a group of bars for each load that nginx took part in, a whisker for least and most."""
    loads = [load for load in results["loads"].values() if BASE in contenders_of(load)]
    rows = [
        (load, name, spread)
        for load in loads
        for name in contenders_of(load)
        if (spread := ratio(load, name, BASE)) is not None
    ]
    most = max([1.0, *(spread.most for _, _, spread in rows)])
    scale = (WIDTH - LEFT - RIGHT) / most
    parts: list[str] = []
    y = TOP
    previous = None
    for load, name, spread in rows:
        if load is not previous:
            y += GROUP_GAP if previous is not None else 0
            parts.append(_text(LEFT - 10, y + BAR - 3, load["title"], "end", bold=True))
            previous = load
        middle, width = y + BAR / 2, spread.median * scale
        low, high = LEFT + spread.least * scale, LEFT + spread.most * scale
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[name]}"/>')
        parts.append(f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#202124" stroke-width="1.5"/>')
        parts.append(_text(max(high, LEFT + width) + 5, y + BAR - 3, f"{spread.median:.2f}", "start"))
        y += BAR + GAP
    line = LEFT + scale
    parts.append(f'<path d="M{line:.1f} {TOP - 6}V{y}" stroke="#202124" stroke-dasharray="3 3"/>')
    names = dict.fromkeys(name for _, name, _ in rows)
    x = LEFT
    for name in names:
        parts.append(f'<rect x="{x}" y="14" width="10" height="10" fill="{COLOURS[name]}"/>')
        parts.append(_text(x + 14, 23, TITLES[name], "start"))
        x += 30 + 7 * len(TITLES[name])
    title = f"Answers per CPU second (where all share the cores: per second), {BASE} = 1"
    parts.append(_text(LEFT, y + 22, title, "start"))
    height = y + 36
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="11">\n<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#202124"{weight}>{escape(text)}</text>'
