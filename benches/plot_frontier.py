#!/usr/bin/env python3
"""Draws what a latency-critical job pays for what the job beside it gets done, from what benches/gpu/priority.py left; the standard
library alone.

    python3 benches/plot_frontier.py benches/runs/DATE-MACHINE/priority.json frontier.svg [--title TEXT]

Each cell of the first load is a point: to the right the throughput beside the latency-critical job, in parts of what the others do by themselves;
upwards the median latency in multiples of alone's, by round.
"""

import argparse
import json
import math
from pathlib import Path

from plot_copies import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, text

GOAL_SHARE, GOAL_RATIO = 0.60, 1.05
COLOURS = {"native": "#c8553d"}
OTHERS = "#1b6ca8"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("json", type=Path, help="priority.json")
    parser.add_argument("svg", type=Path, help="the picture")
    parser.add_argument("--title", default="Median latency against throughput beside it")
    args = parser.parse_args()
    cells = json.loads(args.json.read_text(encoding="utf-8"))["results"][0].get("cells", {})
    points = {name: (cell["alone_share"], cell["over_alone"]["p50_by_round"]) for name, cell in cells.items() if "alone_share" in cell}
    if not points:
        parser.error(f"{args.json} has no cells with others")
    args.svg.write_text(picture(points, args.title), encoding="utf-8")


def picture(points, title):
    ratios = [GOAL_RATIO, 1.0, *(ratio for _, ratio in points.values())]
    low, high = math.floor(10 * min(ratios)) / 10, math.ceil(10 * max(ratios) + 0.5) / 10

    def x(share):
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(ratio):
        return HEIGHT - BOTTOM - (ratio - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 24, title, size=15),
        f'<rect x="{x(GOAL_SHARE):.1f}" y="{y(GOAL_RATIO):.1f}" width="{x(1) - x(GOAL_SHARE):.1f}" '
        f'height="{y(low) - y(GOAL_RATIO):.1f}" fill="#e6f2e6"/>',
    ]
    for step in range(round(10 * low), round(10 * high) + 1):
        parts.append(f'<line x1="{LEFT}" y1="{y(step / 10):.1f}" x2="{x(1):.1f}" y2="{y(step / 10):.1f}" stroke="#ddd"/>')
        parts.append(text(LEFT - 8, y(step / 10) + 4, f"{step / 10:.1f}", anchor="end"))
    parts += [text(x(share / 5), HEIGHT - BOTTOM + 18, f"{20 * share} %", anchor="middle") for share in range(6)]
    parts.append(text(LEFT, TOP - 8, "median latency, times alone's"))
    parts.append(text((LEFT + x(1)) / 2, HEIGHT - 14, "throughput beside it, of what the others do by themselves", anchor="middle"))
    for name, (share, ratio) in points.items():
        colour = COLOURS.get(name, OTHERS)
        parts.append(f'<circle cx="{x(share):.1f}" cy="{y(ratio):.1f}" r="4" fill="{colour}"/>')
        parts.append(text(x(share) + 8, y(ratio) - 6, name))
    parts.append("</svg>\n")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
