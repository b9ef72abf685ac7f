"""Folds of states: the merge at a time, grains, training sets. Only spark.py imports pyspark."""
