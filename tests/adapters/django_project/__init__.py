"""A Django project as a user might have it, with sessions and users of its own."""
