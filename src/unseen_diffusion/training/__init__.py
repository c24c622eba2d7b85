"""Training of the embedded networks: base models and the feature network."""
