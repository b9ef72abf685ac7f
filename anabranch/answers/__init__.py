"""The answer service: read, merge, predict. REST, the stream, messages and the command line all call it."""
