"""Independent oracle: a slow, plain int64 NumPy executor of the fixed-point contract (arith_version 1).

Written from the text of the contract alone. It shares no code with the implementation that it judges.
"""

from .compare import compare
from .errors import OracleError
from .executor import OracleResult, run_oracle

__all__ = ["OracleError", "OracleResult", "compare", "run_oracle"]
