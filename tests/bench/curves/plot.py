#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""plot.py BUILD: run the programs of BUILD/bench whose points are curves, draw
them into docs/curves/*.svg, and put tables of them into docs/FIGURES.md between
its marks. Only the standard library."""
import glob
import math
import os
import platform
import subprocess
import sys
from html import escape

CHARTS = {
    "size": ("Page maps of any size, 1,000 changed pages", "GiB of the map",
             "µs of CPU"),
    "changed": ("Page maps of 64 GiB, any number of changed pages",
                "changed pages", "µs of CPU"),
    "alive": ("1,000 changed pages of 1 GiB, with other snapshots alive",
              "snapshots alive", "µs of CPU"),
    "service": ("A client of firnd, with named snapshots alive",
                "snapshots alive", "µs"),
    "nodes": ("1,000 freezes of 1,000 random pages of 1 GiB, all kept",
              "fan-out of page maps", "bytes a changed page, or µs of CPU"),
}
# Told apart by those who see fewer colours, and by their marks without any.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]
WIDTH, HEIGHT = 680, 400
LEFT, RIGHT, TOP, BOTTOM = 72, 190, 48, 52
BEGIN, END = "<!-- curves: begin -->", "<!-- curves: end -->"


# What is said below a chart's table.
NOTES = {
    "size": "1,024 times the size is five levels more of the tree, and so "
            "twice the time.",
    "changed": "Up to 100 pages each is done 16 times over, for the clock: "
               "then the nodes are in the caches, which a drop feels most.",
    "alive": "Each has the same history, of which so many stay. The "
             "operations visit as many nodes each time; the nodes are further "
             "apart in memory the more are alive, which the processor's "
             "caches feel: hence an allocator of their own, in huge pages "
             "(`vmm/map/arena.h`); beside it what malloc made of them.",
    "nodes": "At most 256 bytes a changed page were asked for. Bytes of nodes "
             "are what `firn stats` counts, bytes of slabs what they are in.",
}


def run(program):
    """(chart, series, x, y) for each point."""
    text = subprocess.run([program], check=True, stdout=subprocess.PIPE,
                          text=True).stdout
    for line in text.splitlines():
        chart, series, x, y = line.split("\t")
        yield chart, series, float(x), float(y)


def measure(build):
    """{chart: {series: [(x, y), ...]}}, in the order that they came in."""
    out = {}
    bench = f"{build}/bench/"

    def add(chart, series, x, y):
        out.setdefault(chart, {}).setdefault(series, []).append((x, y))

    for name in [bench + "curves_map", bench + "curves_service",
                 *sorted(glob.glob(bench + "curves_nodes_?"))]:
        for point in run(name):
            add(*point)
    return out


def number(v):
    """Few digits, no exponent."""
    if v >= 1e6:
        return f"{v / 1e6:g}M"
    if v >= 1e4:
        return f"{v / 1e3:g}k"
    return f"{v:g}"


class Axis:
    """A logarithmic one, from pixel (a) to pixel (b)."""

    def __init__(self, values, a, b, decades):
        lo, hi = math.log10(min(values)), math.log10(max(values))
        if decades:
            lo, hi = math.floor(lo), max(math.ceil(hi), math.floor(lo) + 1)
        self.lo, self.hi, self.a, self.b = lo, max(hi, lo + 1e-9), a, b

    def at(self, v):
        part = (math.log10(v) - self.lo) / (self.hi - self.lo)
        return self.a + part * (self.b - self.a)


def mark(x, y, i, colour):
    """A circle, square, triangle or diamond."""
    if i % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    if i % 4 == 1:
        return (f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" '
                f'height="7" fill="{colour}"/>')
    points = {2: [(0, -5), (4.5, 3.5), (-4.5, 3.5)],
              3: [(0, -5), (5, 0), (0, 5), (-5, 0)]}[i % 4]
    text = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in points)
    return f'<polygon points="{text}" fill="{colour}"/>'


def grid(xs, xaxis, yaxis):
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    out = []
    for v in xs:
        x = xaxis.at(v)
        out.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#dddddd"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 18}" '
                   f'text-anchor="middle">{number(v)}</text>')
    for k in range(yaxis.lo, yaxis.hi + 1):
        y = yaxis.at(10 ** k)
        out.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#dddddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" '
                   f'text-anchor="end">{number(10 ** k)}</text>')
    return out


def line(name, points, i, xaxis, yaxis):
    colour = COLOURS[i % len(COLOURS)]
    at = [(xaxis.at(x), yaxis.at(y)) for x, y in points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    out = [f'<path d="M{path}" fill="none" stroke="{colour}" '
           f'stroke-width="2"/>']
    for (x, y), (vx, vy) in zip(at, points):
        out.append(f"<g><title>{escape(name)}: {number(vx)}, {vy:g}</title>"
                   f"{mark(x, y, i, colour)}</g>")
    x, y = WIDTH - RIGHT + 20, TOP + 12 + 22 * i
    out.append(mark(x, y - 4, i, colour))
    out.append(f'<text x="{x + 12}" y="{y}">{escape(name)}</text>')
    return out


def draw(chart, series, path):
    title, xname, yname = CHARTS[chart]
    xs = sorted({x for p in series.values() for x, _ in p})
    ys = [y for p in series.values() for _, y in p]
    xaxis = Axis(xs, LEFT + 12, WIDTH - RIGHT - 12, False)
    yaxis = Axis(ys, HEIGHT - BOTTOM, TOP, True)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
           f'height="{HEIGHT}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{LEFT}" y="26" font-size="15">{escape(title)}</text>']
    out += grid(xs, xaxis, yaxis)
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" '
               f'text-anchor="middle">{escape(xname)}</text>')
    out.append(f'<text x="16" y="{(TOP + HEIGHT - BOTTOM) / 2}" '
               f'text-anchor="middle" transform="rotate(-90 16 '
               f'{(TOP + HEIGHT - BOTTOM) / 2})">{escape(yname)}</text>')
    for i, (name, points) in enumerate(series.items()):
        out += line(name, points, i, xaxis, yaxis)
    out.append("</svg>")
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n")


def table(chart, series):
    title, xname, yname = CHARTS[chart]
    xs = sorted({x for p in series.values() for x, _ in p})
    rows = [f"### {title}", "", f"![{title}](curves/{chart}.svg)", "",
            f"| {xname} | " + " | ".join(number(x) for x in xs) + " |",
            "|---" * (len(xs) + 1) + "|"]
    for name, points in series.items():
        value = dict(points)
        rows.append(f"| {name} ({yname}) | " if chart != "nodes" else
                    f"| {name} | ")
        rows[-1] += " | ".join(f"{value[x]:.1f}" if x in value else ""
                               for x in xs) + " |"
    if chart in NOTES:
        rows += ["", NOTES[chart]]
    return "\n".join(rows) + "\n"


def machine():
    model, memory = "?", 0
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for text in f:
            if text.startswith("model name"):
                model = text.split(":", 1)[1].strip()
    with open("/proc/meminfo", encoding="utf-8") as f:
        memory = int(f.readline().split()[1]) // (1 << 20)
    return (f"{model}, {os.cpu_count()} cores, {memory} GiB, Linux "
            f"{platform.release()}")


def write_figures(path, data):
    body = [BEGIN, "## Curves", "",
            f"`make curves` on {machine()}. Medians; both axes are "
            "logarithmic.", ""]
    body += [table(c, data[c]) for c in CHARTS if c in data]
    body.append(END)
    old = f"# Figures\n\n{BEGIN}{END}\n"
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            old = f.read()
    if BEGIN not in old:
        old += f"\n{BEGIN}{END}\n"
    head, rest = old.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    with open(path, "w", encoding="utf-8") as f:
        f.write(head + "\n".join(body) + tail)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: tests/bench/curves/plot.py BUILD")
    data = measure(sys.argv[1])
    os.makedirs("docs/curves", exist_ok=True)
    for chart in CHARTS:
        if chart in data:
            draw(chart, data[chart], f"docs/curves/{chart}.svg")
    write_figures("docs/FIGURES.md", data)


main()
