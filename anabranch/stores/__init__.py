"""Where things live, one gateway each: lake (Delta), bus (Kafka), views (Cassandra), models (MLflow)."""
