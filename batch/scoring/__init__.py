"""Mass scoring of data sets and tables, at once or as rows arrive."""
