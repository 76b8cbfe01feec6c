"""Filters of image-text pairs: functions on columns that name a reason for each removed pair."""
