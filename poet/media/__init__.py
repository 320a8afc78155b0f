"""Files to arrays and back: video, sound, images, and the lists that name them."""
