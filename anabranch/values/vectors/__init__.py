"""Expressions evaluated without a JVM: numpy twins of Spark's functions, and programs that run them.

These modules import one another and numpy, nothing else: exports copy them beside the edge runner.
"""
