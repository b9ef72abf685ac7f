"""Answers as tables of Spark, and as rows that are merged at a time."""
