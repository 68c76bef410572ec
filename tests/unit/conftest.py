"""One thread, as in every process of a run: with more, small tensors on a busy machine take many times as long."""

import torch

torch.set_num_threads(1)
