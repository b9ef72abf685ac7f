"""HTTP as plain values: requests, responses and access. It knows nothing of projects and their features."""
