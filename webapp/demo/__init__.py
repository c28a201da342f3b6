"""The simulated world behind `manage.py demo`: two small base models, their prompts and hidden utilities."""
