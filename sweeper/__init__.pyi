from .api.runs import Run as Run
from .api.specs import Spec as Spec
from .api.specs import load_spec as load_spec
from .monitor.notebook import NotebookDisplay as NotebookDisplay
from .run import run_sweep as run_sweep
from .tables.spreadsheet import for_spreadsheet as for_spreadsheet
