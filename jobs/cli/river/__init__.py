"""Events and views, from landing to upkeep."""
