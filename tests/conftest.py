"""All tests compute in one thread, also in the processes that they start.

Sums over several threads round differently: runs that are to be equal bit for bit, one here and one
in a process of its own, need the same number. Two test processes on two cores then do not wait for
each other's threads either.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
