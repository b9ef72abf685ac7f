"""The bus: Kafka topics."""
