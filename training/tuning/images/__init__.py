"""Images: pipeline families, denoising errors, data, generation, rewards."""
