"""Make masks and masked images from confidence maps, byte for byte as the original program does."""
