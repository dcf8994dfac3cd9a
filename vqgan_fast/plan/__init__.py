"""What a training run needs before it is started: memory of each card, cards, time.

`report.make_plan` is the road from top to bottom; `load` reads the configuration, `rehearsal` goes
through a step on tensors without memory, `estimate` goes from there to cards and machines.
"""
