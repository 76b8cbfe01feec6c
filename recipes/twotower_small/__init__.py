"""How the shipped model is made: two students of a frozen teacher, with losses of their own."""
