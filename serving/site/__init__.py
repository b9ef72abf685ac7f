"""Pages for people: projects, keys, model cards, the API's documentation."""
