"""Statistics of judgements: pure functions over numbers and plain rows. No Django, no database.

`votes` reads what one comparison's judgements say; `counts` turns that into sufficient statistics that can be
added and taken away; the other modules compute from those, or from flat arrays, what the pages show.
"""
