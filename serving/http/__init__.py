"""HTTP as plain values: requests, responses, access, breakers, workers. Knows nothing of projects' features."""
