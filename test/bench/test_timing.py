"""Who runs when, and what becomes of the times."""

import pytest

from drive_seg.bench import timing
from drive_seg.bench.timing import Figures, measure, percentile, turns


class Machine:
    """A clock that only the contenders' work moves."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def clock(self):
        return self.now

    def contender(self, name, seconds):
        def call():
            self.log.append(name)
            self.now += seconds

        return call


def test_percentiles_of_known_samples():
    assert percentile([4.0, 1.0, 3.0, 2.0, 5.0], 50) == 3.0
    assert percentile([10.0, 20.0], 25) == pytest.approx(12.5)
    assert percentile([7.0], 99) == 7.0
    found = Figures.of([i / 1000 for i in range(11)])
    assert (found.median_ms, found.p10_ms, found.p90_ms, found.runs) == pytest.approx((5.0, 1.0, 9.0, 11))
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_equals_run_in_turn_and_the_rarer_are_spread_evenly():
    assert turns({"A": 2, "B": 2, "C": 2}) == list("ABCABC")
    order = turns({"A": 4, "B": 2})
    assert order == list("AABAAB") and turns({}) == []


def test_all_run_in_turn_and_warm_ups_do_not_count(monkeypatch):
    monkeypatch.setattr(timing, "LEAST", 3)
    machine = Machine()
    outcome = measure({n: machine.contender(n, 0.25) for n in "ABC"}, seconds=0.1, clock=machine.clock)
    assert machine.log == list("AABBCC" + "ABC" * 3)
    assert outcome == {n: [0.25] * 3 for n in "ABC"}


def test_the_heavy_run_less_often_but_over_the_whole_time():
    machine = Machine()
    calls = {"fast": machine.contender("fast", 0.125), "heavy": machine.contender("heavy", 8.0)}
    outcome = measure(calls, seconds=1.5, clock=machine.clock)
    assert len(outcome["fast"]) == 12 and len(outcome["heavy"]) == timing.LEAST_HEAVY
    timed = machine.log[3:]  # two warm-ups of the fast one, one of the heavy one
    assert [i for i, name in enumerate(timed) if name == "heavy"] == [4, 9, 14]


def test_one_that_fails_costs_no_other():
    machine = Machine()
    calls = {"good": machine.contender("good", 0.125), "later": None, "bad": lambda: 1 / 0}
    runs = iter([0, 0, 0])
    calls["later"] = lambda: next(runs)
    outcome = measure(calls, seconds=1.0, clock=machine.clock)
    assert outcome["good"] == [0.125] * 8
    assert isinstance(outcome["bad"], ZeroDivisionError) and isinstance(outcome["later"], StopIteration)
