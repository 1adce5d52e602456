from . import intermediate as intermediate
from .intermediate import Row as Row
from .worker import RESTORED as RESTORED
from .worker import WorkerConfig as WorkerConfig
