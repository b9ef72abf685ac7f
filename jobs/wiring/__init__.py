"""Settings, the Spark session and the stores: the only wiring and the only reader of conf/."""
