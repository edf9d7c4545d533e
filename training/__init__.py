"""The shared training core: one loop, optimizers, schedules, checkpoints, the run directory."""
