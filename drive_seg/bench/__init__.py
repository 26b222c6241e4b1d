"""Speed, measured: several contenders in turn in one run, each checked before it is timed.

``timing`` takes the times, ``subjects`` and ``contenders`` say what is timed, ``checks`` what may be; ``networks``,
``frames`` and ``node`` are the three parts of a run, which ``run`` carries out and ``report`` and ``plot`` show.
"""
