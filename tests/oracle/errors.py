"""The one exception of the oracle."""


class OracleError(Exception):
    """The model or plan is outside the contract; the message names the node or tensor."""
