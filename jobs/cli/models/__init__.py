"""Versions of models: trained, judged, released, scored with."""
