"""The one exception for what a user can mend."""


class UserError(Exception):
    """Something the user can mend: its text says what is wrong and, after a semicolon, what to do.

    Every stage turns it into one line on stderr and exit status 2 (guard.cli.run).
    """
