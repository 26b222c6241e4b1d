"""Networks alone: logits from a normalised batch, every contender in turn at each size and batch."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from drive_seg.bench import checks, roofline
from drive_seg.bench.contenders import Contender
from drive_seg.bench.machine import PeakMemory
from drive_seg.bench.rows import Cell, Row, size_text
from drive_seg.bench.timing import Clock, measure
from drive_seg.bench.ways import EAGER
from drive_seg.inference.runtimes import Runtime

Tell = Callable[[str], None]


def bench_networks(
    contenders: Sequence[Contender],
    cells: Sequence[Cell],
    seconds: float,
    ceilings: dict[str, Any],
    tell: Tell = lambda text: None,
    clock: Clock = time.perf_counter,
) -> list[Row]:
    """Time the contenders at each cell, each one checked first; a row for each, whatever becomes of it.

    Args:
        contenders: those of one subject side by side, its eager one first.
        cells: sizes, batches and device.
        seconds: for each contender at each cell.
        ceilings: from :func:`~drive_seg.bench.roofline.measure_ceilings`.
        tell: hears what is being done.
        clock: gives seconds.
    """
    rows = []
    for cell in cells:
        present = [contender for contender in contenders if contender.takes_part(cell, cells)]
        rows += _bench_cell(present, cell, seconds, ceilings, tell, clock)
        gc.collect()
    return rows


@torch.inference_mode()
def _bench_cell(
    contenders: Sequence[Contender], cell: Cell, seconds: float, ceilings: dict[str, Any], tell: Tell, clock: Clock
) -> list[Row]:
    where = f"{size_text(cell.size)}, batch {cell.batch}"
    rows: dict[str, Row] = {}
    calls: dict[str, Callable[[], object]] = {}
    reference, of = None, None
    for contender in contenders:
        tell(f"{where}: opening {contender.label}")
        row = rows[contender.label] = _row(contender, cell)
        if contender.subject is not of:
            reference, of = None, contender.subject
        try:
            call, logits = _open(contender, cell, row)
            if contender.subject is not None:
                kept = logits[[0, -1]].float().clone()
                if contender.runtime == EAGER:
                    reference = kept
                elif reference is None:
                    raise checks.WrongOutputError("eager itself does not run, so there is nothing to compare with")
                else:
                    trained = contender.subject.trained
                    row.agreement = checks.check_agreement(kept, reference, trained, contender.precision)
            calls[contender.label] = call
        except Exception as error:  # whatever it is, it costs this contender and none of the others
            row.fail(error)
    tell(f"{where}: timing {len(calls)} contenders in turn")
    for label, outcome in measure(calls, seconds, clock).items():
        if isinstance(outcome, Exception):
            rows[label].fail(outcome)
        else:
            rows[label].take(outcome)
    _compare(contenders, rows)
    _fill_in_costs(contenders, rows, cell, ceilings)
    return list(rows.values())


def _row(contender: Contender, cell: Cell) -> Row:
    return Row(
        "network",
        contender.name,
        contender.runtime,
        contender.precision,
        size_text(contender.size_at(cell)),
        cell.batch,
        asked=contender.asked,
    )


def _open(contender: Contender, cell: Cell, row: Row) -> tuple[Callable[[], object], torch.Tensor]:
    """Open a contender, run it once, check that it gives what it should; what to call, and what it gave."""
    memory = PeakMemory(cell.device)
    with torch.inference_mode(False), torch.no_grad():  # exporters and compilers take no inference tensors
        run = contender.open(cell)
    row.parameters = contender.count_parameters()
    batch = contender.batch_at(cell).to(run.dtype)
    memory.reset()
    result = run(batch)
    row.peak_memory_mib = memory.mib()
    if contender.subject is not None:
        checks.check_logits(result, cell.batch, cell.size, contender.subject.classes)
    else:
        checks.check_finite(result)
    return _to_the_end(run, batch, cell.device), result


def _to_the_end(run: Runtime, batch: torch.Tensor, device: str) -> Callable[[], object]:
    """The call that is timed: it returns when the work is done."""
    if not device.startswith("cuda"):
        return lambda: run(batch)

    def call() -> None:
        run(batch)
        torch.cuda.synchronize(device)

    return call


def _compare(contenders: Sequence[Contender], rows: dict[str, Row]) -> None:
    """With eager of the same network; a file of the user's with eager of the first network, which is the package's."""
    eager = {c.name: rows[c.label] for c in contenders if c.runtime == EAGER}
    first = next(iter(eager.values()), None)
    for contender in contenders:
        rows[contender.label].compare(eager.get(contender.name, first if contender.subject is None else None))


def _fill_in_costs(contenders: Sequence[Contender], rows: dict[str, Row], cell: Cell, ceilings: dict[str, Any]) -> None:
    costs: dict[str, dict[str, int]] = {}
    for contender in contenders:
        row = rows[contender.label]
        if row.median_ms is None or contender.subject is None:
            continue
        if contender.name not in costs:
            costs[contender.name] = roofline.cost(contender.subject.build, cell.size)
        found = roofline.fractions(costs[contender.name], row.precision, row.batch, row.median_ms, ceilings)
        for key, value in found.items():
            setattr(row, key, value)
