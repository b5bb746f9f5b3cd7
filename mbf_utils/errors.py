"""The one exception for bad input. Its message is a sentence: what was expected, what was found, what to do."""

LONGEST = 2000                                      # characters of a message, which may quote what was found


class InputError(ValueError):
    """Input that cannot be used. The command line prints the message alone and exits with 2; nothing is half written.

    The message is one line, whatever it quotes: of a text that is too long the middle is left out, and line ends and characters
    that a terminal would obey are blanks.
    """

    def __init__(self, message: object = ""):
        line = "".join(c if c.isprintable() else " " for c in str(message))
        super().__init__(line if len(line) <= LONGEST else f"{line[:LONGEST - 500]} ... {line[-490:]}")


class Worse(Exception):
    """A version of an adapter that is worse than an earlier one. `table`: its scores and theirs."""

    def __init__(self, message: str, table=None):
        super().__init__(message)
        self.table = table
