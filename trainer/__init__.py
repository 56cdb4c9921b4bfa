"""Data sets, distillation, the training loop, checkpoints and simulated patients. No Qt anywhere below here."""
