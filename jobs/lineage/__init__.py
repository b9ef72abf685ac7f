"""Lineage: which job made what of what, as events of OpenLineage."""
