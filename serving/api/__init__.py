"""What the REST API answers, and what it keeps in memory to do so."""
