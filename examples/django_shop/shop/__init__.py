"""A Django project that is there already: a shop with users who sign in, and their orders."""
