from .detect_align import WARP_LIMIT as WARP_LIMIT
from .detect_align import DetectAlign as DetectAlign
from .detect_align import DetectAlignSettings as DetectAlignSettings
from .detect_align import fitted as fitted
from .table import STAGES as STAGES
