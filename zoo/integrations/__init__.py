"""How stock transformers opens what the zoo writes."""
