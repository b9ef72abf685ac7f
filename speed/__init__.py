"""Fast and soon replaced: tiles and approximate scores kept current from Kafka."""
