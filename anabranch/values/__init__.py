"""What values are: types, SQL expressions over them, times, keys. Knows nothing of features."""
