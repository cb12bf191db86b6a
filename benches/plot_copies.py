#!/usr/bin/env python3
"""Draws copy bandwidth over size, native and staged, from what benches/gpu/copies.py left; the standard library alone.

    python3 benches/plot_copies.py benches/runs/DATE-MACHINE/copies.json copies.svg [--title TEXT] [--form async]
"""

import argparse
import json
import math
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 200, 48, 56
TICK_GBPS = 10
LINES = (
    ("h2d", "shim", "to the GPU, aishim", "#1b6ca8", ""),
    ("h2d", "native", "to the GPU, driver", "#1b6ca8", "5 4"),
    ("d2h", "shim", "from the GPU, aishim", "#c8553d", ""),
    ("d2h", "native", "from the GPU, driver", "#c8553d", "5 4"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("json", type=Path, help="copies.json")
    parser.add_argument("svg", type=Path, help="the picture")
    parser.add_argument("--title", default="Copies of pageable memory")
    parser.add_argument("--form", choices=("sync", "async"), default="async")
    parser.add_argument("--memory", choices=("malloc", "resident"), default="malloc")
    args = parser.parse_args()
    cells = wanted(json.loads(args.json.read_text(encoding="utf-8"))["cells"], args)
    if not cells:
        parser.error(f"{args.json} has no {args.form} cells of {args.memory} memory")
    args.svg.write_text(picture(cells, args.title), encoding="utf-8")


def wanted(cells, args):
    """Those of one process that had all the processors the bench had."""
    most = max(cell["cores"] for cell in cells)
    alike = {"form": args.form, "memory": args.memory, "cores": most, "processes": 1}
    return [cell for cell in cells if all(cell[key] == value for key, value in alike.items())]


def picture(cells, title):
    sizes = sorted({cell["bytes"] for cell in cells})
    rates = [cell[f"{side}_gbps"] for cell in cells for side in ("native", "shim")]
    top_gbps = TICK_GBPS * math.ceil(max(rates) / TICK_GBPS)
    axes = Axes(sizes, top_gbps)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 24, title, size=15),
        *grid(axes, sizes, top_gbps),
    ]
    for direction, side, _, colour, dashes in LINES:
        of_line = sorted((cell["bytes"], cell[f"{side}_gbps"]) for cell in cells if cell["direction"] == direction)
        parts.append(line(axes, of_line, colour, dashes))
    parts += legend()
    parts.append("</svg>\n")
    return "\n".join(parts)


class Axes:
    """Sizes to the right, as powers of two; rates upwards."""

    def __init__(self, sizes, top_gbps):
        self.low, self.high = math.log2(sizes[0]), math.log2(sizes[-1])
        self.top_gbps = top_gbps

    def x(self, size_bytes):
        share = (math.log2(size_bytes) - self.low) / max(self.high - self.low, 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, gbps):
        return HEIGHT - BOTTOM - gbps / self.top_gbps * (HEIGHT - TOP - BOTTOM)


def grid(axes, sizes, top_gbps):
    for gbps in range(0, top_gbps + 1, TICK_GBPS):
        y = axes.y(gbps)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>'
        yield text(LEFT - 8, y + 4, str(gbps), anchor="end")
    for size in sizes:
        yield text(axes.x(size), HEIGHT - BOTTOM + 18, size_name(size), anchor="middle")
    yield text(LEFT, TOP - 8, "GB/s")
    yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "size of the copy", anchor="middle")


def line(axes, points, colour, dashes):
    path = " ".join(f"{axes.x(size):.1f},{axes.y(gbps):.1f}" for size, gbps in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>'


def legend():
    x = WIDTH - RIGHT + 16
    for index, (_, _, name, colour, dashes) in enumerate(LINES):
        y = TOP + 16 + 22 * index
        yield f'<line x1="{x}" y1="{y}" x2="{x + 28}" y2="{y}" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>'
        yield text(x + 36, y + 4, name)


def text(x, y, words, anchor="start", size=12):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#333">{escape(words)}</text>'


def size_name(size_bytes):
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} B"


if __name__ == "__main__":
    main()
