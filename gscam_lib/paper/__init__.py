"""The paper, to be run again: what it shows, what that costs, and how near we come.

Knows the plan of its tables and figures, runs it by the one runner, and packs what came out. Above
evaluation and figures; it knows no formulas and no widgets.
"""
