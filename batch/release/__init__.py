"""Which version serves: gate, promotion, rollback, trials, news for devices, edge bundles."""
