"""The same config with some keys changed: by a flag, or for what one command runs on behalf of another."""

from __future__ import annotations

from typing import Any

from pipeline.config import SectionT


def changed(config: SectionT, **sections: dict[str, Any]) -> SectionT:
    """The config with some keys of some of its sections changed; nothing is validated again."""
    update = {name: getattr(config, name).model_copy(update=changes) for name, changes in sections.items()}
    return config.model_copy(update=update)
