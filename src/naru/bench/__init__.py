"""`naru bench`: the same messages over every transport of this machine, side by side.

    plan      what is run: contenders, modes, sizes, counts; how counts fit into a time   (pure)
    machine   what it is run on, and how busy that is
    runner    runs a plan, in the caller's process; results come from ...
    host      ... a process of its own, which forks the two pinned sides of each run
    sides     what a sender and a receiver do: open, meet, warm up, measure, report
    meeting   the line on which both sides wait for each other; the clocks of one side
    payloads  what is sent, and how the receiver knows that it is what came
    loops     moving messages through an end: per message, batch, in place, round trip
    ends      an end of a naru transport   naive         the same mechanisms in plain Python
    result    frozen records, JSON         table, plot   what people look at
    files     a result is written whole, or not at all
    file_rates  `naru bench files`: transfers and windows beside the usual ways

    scaling   one wait with so many descriptors      connections   so many idle connections

The chain: `plan.make_plan` -> `runner.run_plan` -> `result.Report` -> `table`, `plot`, JSON.
Nothing here is imported by `import naru`.
"""
