"""Tuning: a run directory in, a checkpoint out. Plain PyTorch; knows no Django and no database."""
