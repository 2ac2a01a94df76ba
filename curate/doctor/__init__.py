"""`curate doctor`: what a run here would stand on, and whether it would fit, told before it starts.

It looks at what may be broken, so every part of it works without the others: a package that cannot be imported is a
line of the answer, not the end of it. Nothing asks a network.
"""
