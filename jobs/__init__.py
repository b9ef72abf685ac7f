"""When things run: one entry point a process, the command line, the only wiring and the only reader of conf/."""
