"""Metrics of everything that runs: what is scraped, the rules over it, and the dashboards."""
