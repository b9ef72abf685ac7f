"""Schedules: what a scheduler runs for each project, as data, and the one file that Airflow reads."""
