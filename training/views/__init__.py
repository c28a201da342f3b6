"""The pages about runs, models, matches and schedules. All of them are for a project's managers."""
