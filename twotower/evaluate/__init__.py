"""Measure encoders on labelled and captioned pictures, with confidence intervals."""
