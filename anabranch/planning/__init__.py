"""Plans: what a changed declaration will do to what serves, told before anything is started or written."""
