"""The recipe of the bundled model "twotower-base": OpenAI's ViT-B/16 in 4 bits.

python -m recipes.twotower_base PHOTOGRAPHS TEXT DESTINATION
"""
