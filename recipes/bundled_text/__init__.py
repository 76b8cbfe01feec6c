"""The text tower of the bundled models: that of "twotower-small" and a lexicon.

Half of what the dictionary of `twotower_small` knows about names is lost when the text tower learns
it. The lexicon keeps it beside the tower.

1. `vocabulary.py` lists the names of visible things in WordNet, and the senses of each.
2. A dictionary with a better sentence encoder, all-mpnet-base-v2 (`sentence_model.py`), estimates
   their vectors.
3. `lexicon.py` stores for each name what to add to the features of the tower, in few numbers.

docs/measurements/bundled-model.md gives what it gains.
"""
