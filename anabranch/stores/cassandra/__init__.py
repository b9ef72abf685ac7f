"""The serving store: batch tables, tiles, current rows, manifests and measures in Cassandra."""
