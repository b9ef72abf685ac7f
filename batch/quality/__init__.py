"""The quality gate, its reports, and the quarantine with its replay."""
