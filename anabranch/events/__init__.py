"""From bytes to judged events: decoders, cells, expectations, copies. One set of rules for files, topics and REST."""
