"""What a declaration means, before anything runs."""
