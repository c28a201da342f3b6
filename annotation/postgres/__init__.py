"""Django's PostgreSQL backend, with prepared statements for what is asked most. The settings name it."""
