from .journal import Promotions as Promotions
from .journal import RolledBack as RolledBack
from .journal import every as every
from .journal import told as told
from .night import roll_back as roll_back
from .night import run_night as run_night
