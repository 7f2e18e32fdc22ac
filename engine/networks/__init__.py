"""Point-wise fields with Taylor rules: networks, input embeddings, hard constraints."""
