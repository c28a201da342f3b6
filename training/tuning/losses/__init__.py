"""One pure function per published loss."""
