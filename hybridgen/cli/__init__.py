"""The command line: one file per command. Only the commands that run a model import torch."""
