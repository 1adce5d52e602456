from .session import Trained as Trained
from .session import train_one as train_one
