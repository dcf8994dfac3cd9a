"""The paper's comparisons (Esser et al. 2021, Sections 4.1, 4.3 and 4.4) as one command.

`run.run_study` is the road from top to bottom; `plan` reads which models a configuration asks for,
`stages` trains what is not there yet, `measure` takes the figures, `pictures` draws plots and
sheets, `report` writes tables and page.
"""
