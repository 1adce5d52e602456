"""What is said to people: the root of every error whose message tells what was expected, what came, and what to do.

An error that is not of this kind is a defect of ours, and shows its traceback. Code stands where a class sets it; the
others have that of the class above. Trees that stand elsewhere are drawn there.

ForPeople                 3
├── SettingsError         2  infra.settings
├── ExtraMissing          2  infra.extras
├── StorageError          3  infra.storage.base, also an OSError
├── WeightsError          2  infra.weights.errors
├── LedgerError           3  infra.ledger
│   └── LedgerUnreadable  2
├── WorkspaceBusy         2  infra.ledger
├── LeaseLost             3  infra.ledger
├── ClusterError          3  infra.workers.cluster
├── ExecutorError         3  infra.workers.errors
├── RecipeError           2  tasks.recipes, also a ValueError
├── ComparisonError       2  tasks.comparing
├── NoFaces               2  tasks.comparing
├── UnknownMetric         2  tasks.measuring
├── ProtocolError         2  tasks.measuring
├── EvaluationMissing     2  tasks.measuring
├── TrainingRefused       2  tasks.training
├── JobError              2  flows.jobs
├── RunStopped            3  flows.session
├── NoPreflight           3  flows.restoration
└── ServeError            3  flows.cli.server

What networks, decoders and workers raise among themselves (CheckpointError, IQAUnavailableError, DecodeError,
Unmeasurable, …) is no such error: whoever called them makes of it the verdict on a picture, or one of these.
"""

from __future__ import annotations

from typing import ClassVar

RESUME = "run the same command again to resume"
"""The hint of errors that may be over, or can be mended outside, while what was done is kept."""


class ForPeople(Exception):
    """An error with a message for the person at the terminal. Subclasses say how the command ends."""

    exit_code: ClassVar[int] = 3
    """As in the table of the README: 2 for wrong usage or configuration, 3 where a run could not finish."""
    hint: ClassVar[str] = ""
    """What to do next, where it is the same for every such error; shown below the message."""
