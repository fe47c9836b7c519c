"""Offline knowledge distillation of causal language models: the library the stages call."""

__version__ = "0.1.0"
