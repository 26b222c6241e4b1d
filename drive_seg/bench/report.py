"""What ``drive-seg bench`` prints: the rows of a run as tables for a terminal of 100 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from drive_seg.bench.rows import Status

TITLES = {
    "network": "Networks alone, {size}, batch {batch}",
    "segmenter": "Segmenter, 1280x720 BGR image to label, network at {size}",
    "frames": "Frame path, {size} BGR images to labels, network at that size, batch {batch}",
    "node": "Node over DDS, 1280x720 bgr8, stamp to received mask, network at {size}",
    "training": "Training step, from images in memory to updated weights, {batch} crops of {size}",
}
COLUMNS = {
    "network": ("eager", "same", "MiB", "peak", "copy"),
    "segmenter": ("eager", "same", "MiB", "over network"),
    "frames": ("eager", "same", "MiB", "images/s"),
    "node": ("eager", "p99", "p99/p50", "over Segmenter"),
    "training": ("threads", "images/s", "eager", "MiB"),
}
"""Of each part, after name, runtime, precision and times."""
CAPTION = (
    "ms: median and 10th to 90th percentile of a whole batch. eager: times the unfolded network in PyTorch (fp32, "
    "NCHW, all threads), of the same network, for a file of the first. same: pixels with eager's class. MiB: peak "
    "memory of opening and running. peak, copy: fractions of the machine's fastest matrix product and memory copy. "
    "Of a training step eager is eager fp32 with as many threads. "
    "over: ms more for each image than the network in the same calls, or than the Segmenter in turn with the node."
)
SHORT = {Status.FAILED: Text("failed", style="red"), Status.MISSING: Text("absent", style="dim")}


def as_tables(outcome: dict[str, Any]) -> RenderableType:
    """The outcome of :func:`drive_seg.bench.run.run`."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in outcome["rows"]:
        batch = None if row["part"] == "node" else row["batch"]
        groups.setdefault((row["part"], row["size"], batch), []).append(row)
    parts: list[RenderableType] = [Text(line) for line in _machine(outcome)]
    parts += [_table(rows) for rows in groups.values()]
    parts.append(Text(CAPTION, style="dim"))
    parts += [Text(line) for row in outcome["rows"] for line in _details(row)]
    return Group(*parts)


def _table(rows: list[dict[str, Any]]) -> Table:
    first = rows[0]
    title = TITLES[first["part"]].format(**first) if first["size"] else "Could not be opened"
    table = Table(box=box.SIMPLE, pad_edge=False, title=title, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("name", max_width=20)
    table.add_column("runtime", max_width=16, min_width=11)
    table.add_column("", no_wrap=True)
    columns = COLUMNS[first["part"]]
    for name in ("ms", "p10 - p90", *columns):
        table.add_column(name, justify="right", no_wrap=True)
    failures = []
    for row in rows:
        ran, figures = row["status"] == Status.RAN, _figures(row)
        table.add_row(
            row["name"],
            row["runtime"],
            row["precision"],
            _ms(row["median_ms"]) if ran else SHORT[row["status"]],
            f"{_ms(row['p10_ms'])} - {_ms(row['p90_ms'])}" if ran else "",
            *(figures[name] for name in columns),
        )
        if not ran:
            failures.append(f"{row['name']} {row['runtime']} {row['precision']}: {row['reason']}")
    table.caption, table.caption_justify = Text("\n".join(failures)) if failures else None, "left"
    return table


def _figures(row: dict[str, Any]) -> dict[str, str]:
    """What may stand in the columns of COLUMNS; "" for what is not known of a row."""
    details = row["details"]
    return {
        "eager": _figure(row["ratio_to_eager"], ".2f"),
        "same": _percent(row["agreement"], 1),
        "MiB": _figure(row["peak_memory_mib"], ".0f"),
        "peak": _percent(row["fraction_of_peak"]),
        "copy": _percent(row["fraction_of_bandwidth"]),
        "over network": _ms(details.get("beside_the_network_ms")),
        "images/s": _figure(details.get("frames_per_second"), ".0f")
        or _figure(details.get("images_per_second"), ".1f"),
        "threads": _figure(details.get("threads"), "d"),
        "p99": _ms(details.get("p99_ms")),
        "p99/p50": _figure(details.get("p99_of_p50"), ".2f"),
        "over Segmenter": _ms(details.get("over_segmenter_ms")),
    }


def _machine(outcome: dict[str, Any]) -> list[str]:
    about, ceilings = outcome["machine"], outcome["roofline"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    load, end = about["load"], about["at_the_end"]
    speeds = ", ".join(f"{value:.0f} in {kind}" for kind, value in ceilings["gflops"].items())
    gpu = f"; {about['gpu']['name']}, CUDA {about['gpu']['cuda']}" if about["gpu"] else ""
    return [
        f"{about['cpu'] or 'unknown processor'}, {about['cores']} cores, {about['threads']} threads{gpu}",
        versions,
        f"load {_load(load)} at the start and {_load(end['load'])} at the end; "
        f"clock {_figure(about['clock_mhz'], '.0f')} and {_figure(end['clock_mhz'], '.0f')} MHz"
        + "".join(_gpu_state(words, found) for words, found in (("", about), (" at the end", end))),
        f"GFLOP/s of matrix products: {speeds}; memory copy {ceilings['copy_gb_per_s']:.1f} GB/s; "
        f"the run took {outcome['seconds'] / 60:.1f} minutes"
        + "".join(f", {part} {seconds / 60:.1f}" for part, seconds in outcome["seconds_of"].items()),
    ]


def _gpu_state(when: str, found: dict[str, Any]) -> str:
    state = found.get("gpu_state")
    return f"; GPU{when}: {', '.join(f'{key} {value}' for key, value in state.items())}" if state else ""


def _details(row: dict[str, Any]) -> list[str]:
    details = row["details"]
    if row["part"] == "segmenter" and "stages_ms" in details:
        stages = ", ".join(f"{name} {_ms(value)}" for name, value in details["stages_ms"].items())
        return [
            f"{row['name']}, {row['runtime']} {row['precision']} at {row['size']}: {stages}; beside the network "
            f"{_ms(details['beside_the_network_ms'])} ms"
        ]
    if row["part"] == "training" and row["status"] == Status.RAN:
        shares = ", ".join(f"{part} {_percent(share)}" for part, share in details["shares"].items())
        return [f"{row['runtime']} {row['precision']}, threads {details['threads']}: {shares}"]
    if row["part"] == "node" and row["status"] == Status.RAN:
        return [f"{row['name']}, {row['runtime']} {row['precision']}: {line}" for line in _node_lines(details)]
    return []


def _node_lines(details: dict[str, Any]) -> list[str]:
    lines = []
    if "processing_ms" in details:
        lines.append(
            f"processing, from pick-up to published, takes {_ms(details['processing_ms'])} ms, "
            f"{_ms(details['processing_over_segmenter_ms'])} more than the Segmenter; the mask's way to the listener "
            f"and the image's to the node are the rest"
        )
    if "per_camera_ms" in details:
        lines.append(
            f"{_ms(details['per_camera_ms'])} ms for each camera, {details['per_camera_of_one']:.2f} times that of one "
            "camera alone"
        )
    if "asked_hz" in details:
        lines.append(
            f"{details['sent']} images sent at {details['sent_hz']:.1f} Hz, {details['masks']} masks came, the slowest "
            f"after {_ms(details['max_ms'])} ms; {_account(details)}"
        )
        if not details.get("usual_rate", True):
            lines.append(f"30 Hz is too much for it: alone it manages {details['manages_hz']:.1f} images per second")
    return lines


def _account(details: dict[str, Any]) -> str:
    """That the node's counters add up, with the figures; rows whose figures do not are failures."""
    node = details["node"]
    ends = [f"{value} {key.replace('_', ' ')}" for key, value in node.items() if key != "received" and value]
    lost = details["sent"] - node["received"]
    return f"{node['received']} received = {' + '.join(ends)}" + (f", {lost} lost before the node" if lost else "")


def _load(values: list[float] | None) -> str:
    return "unknown" if values is None else f"{values[0]:.1f}"


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _percent(value: float | None, digits: int = 0) -> str:
    if value is None:
        return ""
    # 99.96 % is not all.
    return "100%" if value == 1 else f"{min(100 * value, 99.9) if value < 1 else 100 * value:.{digits}f}%"
