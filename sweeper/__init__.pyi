from .run import run_sweep as run_sweep
from .spec.load import load_spec as load_spec
from .tables.run import Run as Run
from .tables.spreadsheet import for_spreadsheet as for_spreadsheet
