"""A Hub-integrated model zoo and adapter registry for efficient edge AI."""
