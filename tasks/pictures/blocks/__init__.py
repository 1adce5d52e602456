"""What files consist of beneath their containers: EXIF and XMP, segments and directories, damage that nobody tells."""
