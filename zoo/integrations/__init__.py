"""What makes stock transformers open what the zoo writes."""
