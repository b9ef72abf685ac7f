"""A model after its release: labels that came later, drift, skew, alerts."""
