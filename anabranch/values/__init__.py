"""Types, SQL expressions, times and keys."""
