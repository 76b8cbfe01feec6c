"""Metadata of pictures: EXIF, XMP packets, sidecars, and a journal that can undo."""
