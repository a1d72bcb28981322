"""The one error that tells a person, not a programmer, what to put right."""


class InputError(ValueError):
    """Something that was handed in cannot be used: the message names it and says what to do.

    On the command line it becomes one line and exit status 2 (see ``run.run_experiment``).
    """
