from .collect import collect_run as collect_run
from .page import write_report as write_report
from .pictures import PixelLoader as PixelLoader
from .records import TROUBLES as TROUBLES
