from .effort import Measured as Measured
from .effort import effort_facts as effort_facts
from .effort import measured_before as measured_before
from .page import is_evaluation as is_evaluation
from .page import rewrite_evaluation_report as rewrite_evaluation_report
from .run import prepare as prepare
from .story import evaluate as evaluate
from .story import told_of as told_of
