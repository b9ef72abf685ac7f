"""Wire formats of events, one class each: from the bytes of a message to the cells of a row, and back."""
