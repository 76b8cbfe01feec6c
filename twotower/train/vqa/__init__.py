"""A head that answers questions, trained on frozen towers."""
