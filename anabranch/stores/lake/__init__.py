"""The lake: Delta tables of events, quarantined rows and the states that builds keep."""
