"""Upkeep of the lake's tables, and erasure of keys."""
