"""What a hub keeps in its folder: accounts, repositories, large files, and their upkeep."""
