"""The room's door: settings without torch, the rest on demand."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pipeline.models


def test_settings_load_neither_torch_nor_transformers():
    code = "import sys, pipeline.models.settings; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", pipeline.models.__all__)
def test_every_name_of_the_door_opens(name):
    assert getattr(pipeline.models, name).__name__ == name


def test_other_names_do_not():
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = pipeline.models.Nothing
