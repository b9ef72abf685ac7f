"""Webhooks: addresses that alerts are sent to over HTTP."""
