from .folder import restore_folder as restore_folder
from .restorer import Face as Face
from .restorer import Restorer as Restorer
from .restorer import Result as Result
