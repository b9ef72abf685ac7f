"""How good a model is: what is held out, what is measured with which intervals, and the run that keeps it."""
