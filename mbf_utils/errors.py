"""The one exception for bad input. Its message is a sentence: what was expected, what was found, what to do."""


class InputError(ValueError):
    """Input that cannot be used. The command line prints the message alone and exits with 2; nothing is half written."""


class Worse(Exception):
    """A version of an adapter that is worse than an earlier one. `table`: its scores and theirs."""

    def __init__(self, message: str, table=None):
        super().__init__(message)
        self.table = table
