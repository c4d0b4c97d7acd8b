"""Repositories of another hub, fetched when somebody here asks for them."""
