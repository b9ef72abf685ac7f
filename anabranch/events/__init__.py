"""From bytes to judged events: decoders, cells, expectations, copies.

One set of rules holds for files, topics and REST.
"""
