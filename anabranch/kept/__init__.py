"""Declarations kept as data beside what was built from them, so that a batch version answers by its own."""
