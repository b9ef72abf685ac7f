"""Benchmarks: commands that measure ratios against a named peer in one run, check results equal, and save
tables under docs/benchmarks/.
"""
