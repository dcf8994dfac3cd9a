"""The demo: both stages on photographs that are at hand, and a page that shows what they learned.

`run.run_demo` is the road from top to bottom; `photos` finds the pictures, `folder` makes room for
the results, `budget` shares out the time, `measure` takes the figures, `show` makes the pictures.
"""
