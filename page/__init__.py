"""The pages, of ranked queries and of runs compared: template, style, scripts, thumbnails, and what writes them."""
