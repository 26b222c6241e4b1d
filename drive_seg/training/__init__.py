"""The workshop: data, losses and the training loop. Never imported on the vehicle."""
