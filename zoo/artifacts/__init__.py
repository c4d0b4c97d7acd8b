"""What a ref stands for: resolved once, at the top."""
