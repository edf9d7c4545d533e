"""Shards in, uint8 batches out: packing, verification, the resident store, budgets, augmentation."""
