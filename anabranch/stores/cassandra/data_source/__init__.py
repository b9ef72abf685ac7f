"""Cassandra in Spark SQL: the data source, and the filters that it pushes down."""
