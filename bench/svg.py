"""Charts as inline SVG: bars, quantiles on a logarithmic scale, lines. Colours come from the page's CSS classes."""
import html
import math


def el(tag, *inner, **attributes):
    """An element; class_ and text_anchor are written class and text-anchor. None attributes are left out."""
    words = "".join(f' {k.rstrip("_").replace("_", "-")}="{html.escape(str(round(v, 1) if isinstance(v, float) else v))}"'
                    for k, v in attributes.items() if v is not None)
    return f"<{tag}{words}>{''.join(inner)}</{tag}>"


def text(x, y, words, class_="", anchor="start"):
    return el("text", html.escape(str(words)), x=x, y=y, class_=class_ or None, text_anchor=None if anchor == "start" else anchor)


def line(x1, y1, x2, y2, class_):
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def svg(width, height, label, *inner):
    return el("svg", *inner, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)


def bars(label, rows, limit):
    """rows: (name, kind, [(value, class)...] stacked, spread or None, words). A bar beyond the limit is cut, visibly."""
    width, left, right, step = 540, 126, 418, 24
    scale = (right - left) / limit
    out = []
    for i, (name, kind, parts, spread, words) in enumerate(rows):
        y, middle = i * step + 4, i * step + 14
        total = sum(value for value, _ in parts)
        cut = total > limit
        out.append(text(left - 8, middle + 4, name, f"name {kind}", "end"))
        at, drawn = left, []
        for value, class_ in parts:
            if at >= right:
                break
            end = min(at + value * scale, right)
            drawn.append(el("rect", x=at, y=y + 2, width=max(1.0, end - at), height=step - 8, class_=f"bar {kind} {class_}".strip(),
                            rx=2 if len(parts) == 1 else None))
            at = end
        if cut:  # two strokes in the ground's colour
            drawn += [el("path", d=f"M{right - 26 + k},{y + step - 4} l8,-{step - 4}", class_="cut") for k in (0, 6)]
        elif spread:
            low, high = (min(right, left + total * (1 + s * spread / 2) * scale) for s in (-1, 1))
            drawn += [line(low, middle, high, middle, "whisker"), *(line(x, middle - 4, x, middle + 4, "whisker") for x in (low, high))]
        out.append(el("g", el("title", html.escape(f"{name}: {words}")), *drawn))
        out.append(text(width - 4, middle + 4, words, f"value {kind}", "end"))
    return svg(width, len(rows) * step + 4, label, line(left, 2, left, len(rows) * step + 2, "axis"), *out)


def decades(low, high):
    return [10.0 ** k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def quantiles(label, rows, heads, tick_words, value_words):
    """rows: (name, kind, values). Dots on one logarithmic scale, from the first value to the last, and the values."""
    width, left, right, top, step, column = 540, 104, 292, 22, 24, 58
    ticks = decades(min(min(v) for _, _, v in rows), max(max(v) for _, _, v in rows))
    first, last = math.log10(ticks[0]), math.log10(ticks[-1])
    height = top + step * len(rows) + 20

    def x(value):
        return left + (math.log10(value) - first) / max(1, last - first) * (right - left)

    out = []
    named = 1 if len(ticks) < 5 else 2  # words for each decade would run into each other
    for k, tick in enumerate(ticks):
        out.append(line(x(tick), top, x(tick), height - 18, "grid"))
        if k % named == 0:
            out.append(text(x(tick), height - 4, tick_words(tick), "tick", "middle"))
    for k, head in enumerate(heads):
        out.append(text(right + 20 + column * (k + 1) - 10, 12, head, "head", "end"))
    for i, (name, kind, values) in enumerate(rows):
        y = top + i * step + step / 2
        out.append(text(left - 8, y + 4, name, f"name {kind}", "end"))
        out.append(line(x(values[0]), y, x(values[-1]), y, f"range {kind}"))
        out += [el("circle", cx=x(v), cy=y, r=5 - k * 0.9, class_=f"dot {kind} q{k}") for k, v in enumerate(values)]
        out += [text(right + 20 + column * (k + 1) - 10, y + 4, value_words(v), f"value {kind}", "end") for k, v in enumerate(values)]
    return svg(width, height, label, *out)


def apart(places, least):
    """The same places, moved until neighbours are at least so far apart."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, after in zip(order, order[1:]):
        moved[after] = max(moved[after], moved[before] + least)
    return moved


def lines(label, series, columns, tick_words, value_words=None, mark=None, height=300):
    """series: (name, class, values), one value for each column, on a logarithmic scale. mark: a value drawn across."""
    width, left, right, top, bottom = 540, 52, 396 if value_words else 412, 12, height - 28
    every = [v for _, _, values in series for v in values]
    ticks = decades(min(every), max(every))
    first, last = math.log10(ticks[0]), math.log10(ticks[-1])

    def x(i):
        return left + 14 + (right - left - 28) * i / max(1, len(columns) - 1)

    def y(value):
        return bottom - (math.log10(value) - first) / max(1, last - first) * (bottom - top)

    out = []
    for tick in ticks:
        out += [line(left, y(tick), right, y(tick), "grid"), text(left - 8, y(tick) + 4, tick_words(tick), "tick", "end")]
    if mark is not None:
        out.append(line(left, y(mark), right, y(mark), "mark"))
    out += [text(x(i), bottom + 18, column, "tick", "middle") for i, column in enumerate(columns)]
    names = apart([y(values[-1]) for _, _, values in series], 16)
    names = [n - max(0, max(names) - bottom) for n in names]
    for (name, class_, values), place in zip(series, names):
        points = [(x(i), y(v)) for i, v in enumerate(values)]
        out.append(el("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in points), class_=f"line {class_}"))
        for (a, b), column, value in zip(points, columns, values):
            words = f"{name}, {column}: {value_words(value) if value_words else f'{value:.2f}'}"
            out.append(el("circle", el("title", html.escape(words)), cx=a, cy=b, r=3.5, class_=f"point {class_}"))
        out.append(el("path", d=f"M{right - 8},{points[-1][1]:.1f} L{right + 6},{place:.1f}", class_=f"leader {class_}"))
        out.append(text(right + 10, place + 4, name if not value_words else f"{name} {value_words(values[-1])}", f"name {class_}"))
    return svg(width, height, label, *out)
