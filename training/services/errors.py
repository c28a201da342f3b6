"""What ends a run or an attempt. What a caller asked for wrongly is in `annotation.errors`."""


class RunFailed(Exception):
    """The run cannot succeed; this sentence tells its owner why and what to do."""


class AttemptLost(Exception):
    """This attempt came to nothing, another may succeed: a killed trainer, a storage that was away."""


class GivenUp(Exception):
    """The run is no longer this attempt's: it was requeued, and nothing may be written any more."""
