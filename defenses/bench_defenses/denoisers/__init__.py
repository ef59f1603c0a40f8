"""What learned purifiers share: networks from images to images, and their training."""
