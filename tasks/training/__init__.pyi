from .session import train_one as train_one
