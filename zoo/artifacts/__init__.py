"""What a ref turned out to be: resolved once, at the top."""
