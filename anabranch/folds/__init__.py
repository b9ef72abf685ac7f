"""What is done with states: merged at a time, kept as grains, folded into training sets. Only spark.py imports pyspark."""
