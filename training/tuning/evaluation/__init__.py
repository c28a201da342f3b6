"""Is a reward right? Held-out answers, verified answers, and attacks, as one report. See ``report``."""
