"""Shards in, uint8 batches out: packing, verification, resident store, budgets, augmentation."""
