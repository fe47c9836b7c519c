"""Offline knowledge distillation of causal language models: the library the stages call."""

import sys

if sys.platform == "win32":
    raise ImportError("sad-pipeline runs on Linux and macOS. On Windows, install and start it in WSL.")

__version__ = "0.1.0"
