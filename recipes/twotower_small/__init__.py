"""The recipe of the bundled model "twotower-small": two students of a frozen teacher.

python -m recipes.twotower_small DATA DESTINATION
"""
