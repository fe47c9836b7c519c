"""The defects, by where they are; last, with reasons, what nobody can notice."""

from __future__ import annotations

from tests.reliability.mutants.cache import CACHE
from tests.reliability.mutants.files import FILES, RUNS
from tests.reliability.mutants.kinds import KINDS
from tests.reliability.mutants.models import MODELS
from tests.reliability.mutants.training import TRAINING

__all__ = ["KINDS", "MUTANTS"]

MUTANTS = [*FILES, *RUNS, *CACHE, *MODELS, *TRAINING]

# Nobody can notice these, and they do not count:
# - `check_commit` compares no sizes, `_check_shard` of verify neither, `_check_file` of sequences knows no largest one:
#   bytes of another size have another hash, which is compared as well. What is huge is only refused later.
# - A shard is written under its own name, or tensors are, and synced there: until the seal or COMMIT.json comes, which
#   is after that, the name counts for nobody, and what is half-written under it is written anew.
# - COMMIT.json stays in a checkpoint that is let go of: the folder takes a temporary name in one step before anything
#   in it goes, and no checkpoint is looked for under such a name.
