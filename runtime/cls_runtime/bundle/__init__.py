"""What a bundle is: its folder, its manifest, its golden vectors, and how parity is measured and bounded."""
