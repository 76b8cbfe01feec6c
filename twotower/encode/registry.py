"""The names of the bundled models."""

BUNDLED_MODELS = {"twotower-base": "base", "twotower-small": "small"}  # name -> short name, folder
DEFAULT_MODEL = "twotower-base"
QUICK_MODEL = "twotower-small"  # a large library is indexed with it first, then with the default
