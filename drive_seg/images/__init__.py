"""Images: camera messages, their encodings, image files, masks, and what is drawn on or done to a picture."""
