"""Jobs: the command line, flows across layers, embedded servers, and the only wiring."""
