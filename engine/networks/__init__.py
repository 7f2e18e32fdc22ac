"""Point-wise fields: networks, input embeddings and hard-constraint ansaetze, all with Taylor rules."""
